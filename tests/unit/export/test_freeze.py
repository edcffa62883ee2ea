"""Frozen models: the same function and bound in plain modules, no trace of a constraint."""

import copy
import io
import itertools
import re
import subprocess
import sys
from collections import OrderedDict
from functools import partial

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from layer_cases import SIZES, cases
from oracles import dense_operator
from taut.parametrizations import AbstractParametrization, AbstractSpectral, methods
from taut.program import verifiable_bound
from thinning import one_in

STATELESS = (
    taut.nn.CircularPad2d,
    taut.nn.MaxMin,
    taut.nn.GroupSort,
    taut.nn.InvertibleDownsample2d,
    taut.nn.PadToMultiple2d,
    taut.nn.Shift2d,
)


def assert_plain(model: nn.Module) -> None:
    """Every tensor belongs to a module of torch or of the user; what is left of taut has none.

    A circular convolution is one of torch that pads with fewer copies.
    """
    for module in model.modules():
        if type(module) is taut.nn.CircularConv2d:
            assert isinstance(module, nn.Conv2d)
            assert list(module.state_dict()) in (["weight", "bias"], ["weight"])
        elif type(module).__module__.startswith("taut"):
            assert type(module) in STATELESS
            assert not list(module.parameters()) + list(module.buffers())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any("raw" in key or "parametrization" in key for key in model.state_dict())


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


class Residual(nn.Module):
    """A class of a user's own, with layers as attribute, in a list and twice the same one."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([taut.nn.Conv2d(4, 4, 3), taut.nn.Conv2d(4, 4, 2)])
        self.twice = taut.nn.Conv2d(4, 4, (1, 3), padding_mode="zeros")
        self.alias = self.twice
        self.norm = nn.BatchNorm2d(4).eval()
        self.order = [self.twice, self.alias]  # no module list: the same layers again

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for step in self.steps:
            y = step(y)
        for layer in self.order:
            y = layer(y)
        return self.norm(x + y)


def net() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.Conv2d(1, 4, 3),
        taut.nn.MaxMin(),
        Residual(),
        taut.nn.Conv2d(4, 6, 4, 2, parametrization=partial(taut.RKO)),
        taut.nn.GroupSort(3),
        taut.nn.InvertibleDownsample2d(2),
        nn.Flatten(),
        nn.Sequential(taut.nn.Linear(24 * 4, 20), nn.ReLU()),
        taut.nn.Linear(20, 5, bias=False),
    )


@pytest.mark.parametrize("method", [taut.BCOP, taut.RKO])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "channels", "padding", "mode"), one_in(3, cases())
)
def test_function_of_every_accepted_combination(
    kernel_size, stride, channels, padding, mode, method
):
    layer = taut.nn.Conv2d(
        *channels, kernel_size, stride, padding, padding_mode=mode, parametrization=method
    ).double()
    frozen = taut.freeze(layer)
    assert_plain(frozen)
    for size in SIZES:
        pads, x = layer.pads(size), torch.randn(2, channels[0], *size, dtype=torch.float64)
        extended = [n + e for n, e in zip(size, pads.extend, strict=True)]
        around = zip(extended, pads.left, pads.right, layer.kernel_size, strict=True)
        if any(sum(line[:3]) < line[3] for line in around):
            continue  # no output at all
        expected = layer(x)
        assert frozen(x).shape == expected.shape
        assert distance(frozen(x), expected) < 1e-13
        assert distance(frozen(x[0]), expected[0]) < 1e-13
        assert distance(frozen(x.to(memory_format=torch.channels_last)), expected) < 1e-13


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
@pytest.mark.parametrize("method", [taut.BCOP, taut.RKO])
@pytest.mark.parametrize(
    ("kernel_size", "stride"), [(3, 1), (2, 1), ((1, 4), 1), (4, 2), (6, 3), ((4, 3), (2, 1))]
)
def test_bound_is_that_of_the_original(kernel_size, stride, method, size, mode):
    layer = taut.nn.Conv2d(3, 4, kernel_size, stride, padding_mode=mode, parametrization=method)
    # By the proofs of certificates; of a layer of its own, padding is not part of the convolution.
    expected = float(verifiable_bound(layer, (3, *size)))
    found = float(verifiable_bound(taut.freeze(layer), (3, *size)))
    assert found == pytest.approx(expected, rel=1e-6)
    dense = dense_operator(taut.freeze(layer).double(), (3, *size))
    assert torch.linalg.matrix_norm(dense, 2) <= found


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (12, 8)])
def test_whole_model(size):
    """Inputs of odd and other sizes go through the convolutions of one frozen model."""
    model = net()[:4].double()
    frozen, x = taut.freeze(model), torch.randn(3, 1, *size, dtype=torch.float64)
    assert_plain(frozen)
    assert distance(frozen(x), model(x)) < 1e-13


@pytest.mark.parametrize("architecture", ["small", "large", "fc3", "wide"])
def test_layers_in_float32(architecture):
    """With gradients, where layers may go by factors: over many of them that rounding adds up."""
    model = taut.models.kinds()[architecture]().build((1, 28, 28), 10)
    frozen, x = taut.freeze(model), torch.rand(4, 1, 28, 28)
    padded = False  # whether the input of a layer comes from one that pads it
    for name, layer in model.named_children():
        plain = frozen.get_submodule(name)
        y, found = layer(x), plain(F.pad(x, (1, 1, 1, 1), "circular") if padded else x)
        assert found.dtype == y.dtype
        padded = isinstance(plain, taut.nn.CircularPad2d)
        assert distance(found[:, :, 1:-1, 1:-1] if padded else found, y) < 1e-6
        x = y.detach()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ["small", "large", "fc3", "wide"])
def test_whole_models_without_gradients_are_the_original_bit_for_bit(architecture, training):
    model = taut.models.kinds()[architecture]().build((1, 28, 28), 10).train(training)
    frozen, x = taut.freeze(model), torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(frozen(x), model(x))


@pytest.mark.parametrize("name", sorted(methods().keys() - {"ECO"}))
def test_layers_without_gradients_are_the_original_bit_for_bit(name):
    method, options = methods()[name], ("circular", "zeros")
    layers: list[tuple[nn.Module, Tensor]] = [
        (taut.nn.Linear(*sizes, parametrization=method), torch.randn(5, sizes[0]))
        for sizes in ((64, 64), (10, 128), (128, 10))
    ]
    if not method.matrices_only:
        layers += [
            (
                taut.nn.Conv2d(8, c, k, s, padding_mode=mode, parametrization=method),
                torch.randn(2, 8, 9, 8),
            )
            for c, k, s, mode in itertools.product((6, 12), (1, 2, 3, 4), (1, 2), options)
            if k % s == 0
        ]
    with torch.no_grad():
        for layer, x in layers:
            assert torch.equal(taut.freeze(layer, x.shape[1:])(x), layer(x)), layer


def test_original_is_left_as_it_was():
    model, x = net(), torch.randn(2, 1, 8, 8)
    model(x).sum().backward()
    before, types = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    grads = [p.grad for p in model.parameters()]
    state = torch.get_rng_state()
    frozen = taut.freeze(model)
    for parameter in frozen.parameters():
        parameter.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert types == [type(m) for m in model.modules()]
    assert all(
        p.requires_grad and p.grad is g for p, g in zip(model.parameters(), grads, strict=True)
    )
    assert any(p.norm() > 0 for p in model[2].steps[0].parameters())


@pytest.mark.parametrize("method", sorted(methods()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_read_bit_for_bit(method, dtype):
    layers = [taut.nn.Linear(5, 3, parametrization=methods()[method], dtype=dtype)]
    if not (methods()[method].matrices_only or issubclass(methods()[method], AbstractSpectral)):
        layers.append(taut.nn.Conv2d(3, 5, 3, parametrization=methods()[method], dtype=dtype))
    for layer in layers:
        frozen = taut.freeze(layer)
        assert frozen.weight.dtype == dtype
        assert torch.equal(frozen.weight, layer.weight)
        assert torch.equal(frozen.bias, layer.bias)
        assert frozen.weight.is_contiguous()


def test_method_of_a_users_own_freezes():
    class Scaled(AbstractParametrization):
        guarantee = "none"
        reference = "none"

        def raw_shapes(self) -> dict[str, tuple[int, ...]]:
            return {"raw_matrix": (max(self.in_channels, self.out_channels),) * 2}

        def weight(self) -> Tensor:
            return 0.5 * self.raw_matrix[: self.out_channels, : self.in_channels]

    layer, x = taut.nn.Linear(4, 3, parametrization=Scaled), torch.randn(2, 4)
    assert torch.allclose(taut.freeze(layer)(x), layer(x))


def test_users_class_names_and_sharing_are_kept():
    model = net()
    frozen = taut.freeze(model)
    block = frozen.get_submodule("2")
    assert type(block) is Residual
    assert block.alias is block.twice
    assert block.order == [block.twice, block.twice]
    assert type(block.twice) is nn.Conv2d
    assert type(block.steps[0]) is taut.nn.CircularConv2d
    assert type(frozen[-1]) is nn.Linear
    assert frozen[-1].bias is None
    names = {name for name, _ in model.named_modules() if "parametrization" not in name}
    assert names <= {name for name, _ in frozen.named_modules()}
    assert {"0.weight", "0.bias", "2.twice.weight", "7.0.weight"} <= set(frozen.state_dict())


def test_names_are_those_of_the_plain_twin():
    """Written by hand, as in the paper: its weights fit, and do the same at that size."""
    layers = {
        "conv1": nn.Conv2d(1, 16, 4, 2, 1, padding_mode="circular"),
        "maxmin1": taut.nn.MaxMin(),
        "conv2": nn.Conv2d(16, 32, 4, 2, 1, padding_mode="circular"),
        "maxmin2": taut.nn.MaxMin(),
        "flatten": nn.Flatten(),
        "dense1": nn.Linear(32 * 49, 100),
        "maxmin3": taut.nn.MaxMin(),
        "dense2": nn.Linear(100, 10),
    }
    plain, x = nn.Sequential(OrderedDict(layers)), torch.rand(2, 1, 28, 28)
    model = taut.models.Small().build((1, 28, 28), 10)
    frozen = taut.freeze(model)
    plain.load_state_dict(frozen.state_dict())
    assert torch.equal(plain(x), frozen(x))
    assert [type(m).__name__ for m in frozen][:3] == [
        "PadToMultiple2d",
        "CircularConv2d",
        "CircularPad2d",
    ]


def test_positions_stay_where_a_class_may_count_on_them():
    class Picks(nn.Module):
        def __init__(self, body: nn.Sequential) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body[2](self.body[0](x))

    body = nn.Sequential(taut.nn.Conv2d(1, 4, 2, 2), nn.ReLU(), taut.nn.Conv2d(4, 4, 2, 2))
    x = torch.rand(2, 1, 7, 7)
    for model in (Picks(body), nn.Sequential(nn.Identity(), Picks(body))):
        frozen = taut.freeze(model)
        assert torch.allclose(frozen(x), model(x), atol=1e-6)
    shared = nn.Sequential(Picks(body), taut.nn.Conv2d(4, 1, 1), body)
    frozen = taut.freeze(shared)
    assert torch.allclose(frozen(x), shared(x), atol=1e-6)
    assert frozen[2] is frozen[0].body


def test_chains_within_chains():
    layer = taut.nn.Conv2d(2, 2, 6, 3, padding_mode="zeros")
    model = nn.Sequential(nn.Sequential(layer, taut.nn.MaxMin()), nn.Sequential(layer))
    frozen, x = taut.freeze(model), torch.rand(2, 2, 11, 10)
    assert torch.allclose(frozen(x), model(x), atol=1e-6)
    names = ["0_multiple", "0_even", "0", "1"]
    assert [name for name, _ in frozen[0].named_children()] == names
    assert list(frozen.state_dict()) == ["0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias"]


def test_shared_parametrizations_and_biases_stay_shared():
    first, second = taut.nn.Linear(4, 4), taut.nn.Linear(4, 4)
    second.parametrization, second.bias = first.parametrization, first.bias
    frozen = taut.freeze(nn.Sequential(first, second))
    assert frozen[0].weight is frozen[1].weight
    assert frozen[0].bias is frozen[1].bias


def test_modes_are_kept():
    model = nn.Sequential(taut.nn.Conv2d(1, 2, 2, 2), taut.nn.Linear(2, 2), nn.Dropout())
    model[0].eval()
    frozen = taut.freeze(model)
    assert [m.training for m in frozen] == [False, False, True, True]
    assert not frozen[0].training


def test_gradients_reach_the_input():
    model, x = net().eval(), torch.randn(2, 1, 8, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    (found,) = torch.autograd.grad(taut.freeze(model)(x)[:, 0].sum(), x)
    assert torch.allclose(found, expected, atol=1e-5)


def test_state_dict_goes_into_another_frozen_copy():
    source, target, x = taut.freeze(net()), taut.freeze(net()), torch.randn(2, 1, 8, 8)
    assert not torch.equal(source(x), target(x))
    unshared = {k: v.clone() for k, v in source.state_dict().items()}  # `alias` is `twice`
    target.load_state_dict(load_safetensors(save_safetensors(unshared)))
    assert torch.equal(source(x), target(x))


def test_safetensors_takes_the_state_as_it_is():
    model = taut.freeze(taut.models.Small().build((1, 28, 28), 10))
    saved = load_safetensors(save_safetensors(model.state_dict()))
    assert all(torch.equal(saved[k], v) for k, v in model.state_dict().items())


def test_pickles_and_copies():
    frozen, x = taut.freeze(net()), torch.randn(2, 1, 8, 8)
    buffer = io.BytesIO()
    torch.save(frozen, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), frozen(x))
    assert torch.equal(copy.deepcopy(frozen)(x), frozen(x))
    again = taut.freeze(frozen)
    assert torch.equal(again(x), frozen(x))
    assert again[0].weight is not frozen[0].weight


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, taut.cached])
def test_frozen_weights_are_free_of_their_context(context):
    model, x = nn.Sequential(taut.nn.Linear(3, 3)), torch.randn(2, 3, requires_grad=True)
    with context():
        model(x)
        frozen = taut.freeze(model)
        kept = model[0].weight
    assert not frozen[0].weight.is_inference()
    assert frozen[0].weight.data_ptr() != kept.data_ptr()
    frozen(x).sum().backward()
    assert x.grad is not None


def test_bound_and_certificate_are_those_of_the_original():
    model = net().eval()
    frozen, images = taut.freeze(model), torch.rand(20, 1, 8, 8)
    labels = model(images).argmax(1)
    shape = (1, 8, 8)
    bounds = [taut.lipschitz_bound(m, shape) for m in (model, frozen)]
    assert float(bounds[1]) == pytest.approx(float(bounds[0]), rel=1e-6)
    assert torch.allclose(bounds[1].pairwise, bounds[0].pairwise, rtol=1e-5)
    results = [taut.certify(m, images, labels, eps=(0.01,)) for m in (model, frozen)]
    assert results[1].clean_accuracy == results[0].clean_accuracy == 1.0
    assert torch.allclose(results[1].radius, results[0].radius, rtol=1e-3, atol=1e-5)


IN_ONE_GRAPH = """
import torch, taut
model = taut.models.Small().build((1, 13, 14), 10).eval()
frozen, x = taut.freeze(model), torch.rand(3, 1, 13, 14)
with torch.no_grad():
    expected = model(x)
    {what}
    assert torch.allclose(found, expected, atol=1e-5)
"""
WHAT = {
    "compile": 'found = torch.compile(frozen, fullgraph=True, backend="aot_eager")(x)',
    "export": (
        "batch = torch.export.Dim('batch')\n"
        "    program = torch.export.export(frozen, (x[:2],), dynamic_shapes=({0: batch},))\n"
        "    assert set(program.state_dict) == set(frozen.state_dict())\n"
        "    found = program.module()(x)"
    ),
}


@pytest.mark.parametrize("what", WHAT)
def test_in_one_graph(what):
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    code = IN_ONE_GRAPH.replace("{what}", WHAT[what])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class SubConv(taut.nn.Conv2d):
    pass


class SubMaxMin(taut.nn.MaxMin):
    pass


def hooked(name: str) -> nn.Module:
    model = nn.Sequential(taut.nn.Linear(2, 2), nn.ReLU())
    method = {
        "forward": lambda: model[0].register_forward_hook(lambda *_: None),
        "pre": lambda: model[0].register_forward_pre_hook(lambda *_: None),
        "backward": lambda: model[0].register_full_backward_hook(lambda *_: None),
    }[name]
    method()
    return model


def replaced() -> nn.Module:
    layer = taut.nn.Linear(2, 2)
    layer.forward = lambda x: 2 * x
    return nn.Sequential(layer)


class Unlisted(nn.Module):
    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = [held]

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](x)


REFUSED = {
    "forward hook": (lambda: hooked("forward"), "`0` (Linear) has hooks"),
    "pre-hook": (lambda: hooked("pre"), "`0` (Linear) has hooks"),
    "backward hook": (lambda: hooked("backward"), "`0` (Linear) has hooks"),
    "replaced forward": (replaced, "`0` (Linear) has a replaced forward"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)), "`0` (LazyLinear) is lazy"),
    "subclass of a layer": (lambda: SubConv(1, 1, 1), "`model` (SubConv) cannot be frozen"),
    "subclass of an activation": (lambda: nn.Sequential(SubMaxMin()), "`0` (SubMaxMin) cannot"),
    "parametrization": (
        lambda: nn.ModuleDict({"p": taut.Orthogonal(2, 2)}),
        "`p` (Orthogonal) cannot be frozen: a parametrization has no forward",
    ),
    "held in a list": (
        lambda: Unlisted(taut.nn.Linear(2, 2)),
        "`model` holds Linear outside of its modules",
    ),
    "parametrization in a list": (
        lambda: Unlisted(taut.Orthogonal(2, 2)),
        "`model` holds Orthogonal outside of its modules",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_frozen_is_refused_by_name(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        taut.freeze(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("multiple", [1, 3, (2, 5)])
@pytest.mark.parametrize("size", [(1, 1), (6, 10), (7, 11)])
def test_padding_to_a_multiple(multiple, size):
    rows, columns = (multiple, multiple) if isinstance(multiple, int) else multiple
    x = torch.randn(2, 3, *size)
    y = taut.nn.PadToMultiple2d(multiple)(x)
    height, width = y.shape[-2:]
    assert (height % rows, width % columns) == (0, 0)
    assert 0 <= height - size[0] < rows
    assert 0 <= width - size[1] < columns
    assert torch.equal(F.pad(x, (0, width - size[1], 0, height - size[0])), y)
    pad = taut.nn.PadToMultiple2d(multiple)
    assert taut.singular_values(pad, (1, *size)).tolist() == [1.0] * (size[0] * size[1])
    assert float(taut.lipschitz_bound(pad, (1, *size))) == 1.0


@pytest.mark.parametrize("multiple", [0, -1, 1.5, True, (2,), (2, 0)])
def test_padding_to_no_multiple_is_refused(multiple, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="`multiple` must be a positive integer"):
        taut.nn.PadToMultiple2d(multiple)
