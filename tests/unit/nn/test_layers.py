"""Layers: the dense operator of what forward runs, twins of torch's layers, no hidden state."""

import copy
import io
import itertools
import re
import subprocess
import sys
import warnings
from functools import partial

import jaxtyping
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from layer_cases import KERNELS, SIZES, cases
from oracles import dense_operator
from taut.nn._padding import Pads, pad
from thinning import one_in


def spectrum(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    return torch.linalg.svdvals(dense_operator(layer, shape))


def divides(stride, size: tuple[int, int]) -> bool:
    pair = (stride, stride) if isinstance(stride, int) else stride
    return all(n % s == 0 for n, s in zip(size, pair, strict=True))


@pytest.mark.parametrize("parametrization", [taut.BCOP, taut.RKO])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "channels", "padding", "mode"), one_in(3, cases())
)
def test_spectrum_of_every_accepted_combination(
    kernel_size, stride, channels, padding, mode, parametrization
):
    layer = taut.nn.Conv2d(
        *channels, kernel_size, stride, padding, padding_mode=mode, parametrization=parametrization
    ).double()
    for size in SIZES:
        pads = layer.pads(size)
        padded = [sum(p) for p in zip(size, pads.extend, pads.left, pads.right, strict=True)]
        if any(n < k for n, k in zip(padded, layer.kernel_size, strict=True)):
            assert padding != "same"
            continue  # no output at all
        s = spectrum(layer, (channels[0], *size))
        assert s.max() <= 1 + 1e-12
        torus = padding == "same" and mode == "circular" and divides(stride, size)
        if parametrization.guarantee == "orthogonal" and torus:
            assert s.min() >= 1 - 1e-12


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_same_padding_gives_one_output_per_stride(kernel_size, stride, mode):
    layer = taut.nn.Conv2d(2, 3, kernel_size, stride, padding_mode=mode)
    pair = (stride, stride) if isinstance(stride, int) else stride
    for size in [*SIZES, (9, 8), (28, 28)]:
        expected = tuple(-(-n // s) for n, s in zip(size, pair, strict=True))
        assert layer(torch.randn(2, 2, *size)).shape == (2, 3, *expected)


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"),
    [(3, 1, 1), (5, 1, 2), (5, 1, (1, 2)), (1, 1, 0), (4, 2, 1), (2, 2, 0), ((3, 5), 1, (1, 0))],
)
def test_plain_twin_computes_the_same(kernel_size, stride, padding, mode):
    layer = taut.nn.Conv2d(2, 3, kernel_size, stride, padding, padding_mode=mode)
    twin = nn.Conv2d(2, 3, kernel_size, stride, padding, padding_mode=mode)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        twin.bias.copy_(layer.bias)
    x = torch.randn(4, 2, 8, 6)
    assert torch.allclose(layer(x), twin(x), atol=1e-6)
    assert torch.allclose(layer(x[0]), twin(x[0]), atol=1e-6)


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_same_padding_is_placed_as_torch_places_it(kernel_size):
    layer = taut.nn.Conv2d(2, 2, kernel_size, padding_mode="zeros", bias=False)
    x = torch.randn(1, 2, 7, 6)
    with warnings.catch_warnings(action="ignore"):  # torch's, on copies for even sizes
        expected = F.conv2d(x, layer.weight, padding="same")
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_input_smaller_than_the_kernel_wraps_round():
    """Against the kernel folded onto the torus by hand."""
    layer = taut.nn.Conv2d(2, 2, 5, bias=False).double()
    x = torch.randn(1, 2, 2, 1, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for i, j, a, b in itertools.product(range(2), range(1), range(5), range(5)):
        expected[0, :, i, j] += layer.weight[:, :, a, b] @ x[0, :, (i + a - 2) % 2, 0]
    assert torch.allclose(layer(x), expected)


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6), (1, 5), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_linear_is_semi_orthogonal(shape, dtype):
    layer = taut.nn.Linear(*shape, dtype=dtype)
    assert (spectrum(copy.deepcopy(layer).double(), (shape[0],)) - 1).abs().max() < 1e-6
    x = torch.randn(2, 7, shape[0], dtype=dtype)
    assert torch.allclose(layer(x), x @ layer.weight.T + layer.bias, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dilation": 0}, "`dilation` must be a positive integer or a tuple of 2; got 0"),
        ({"groups": 3}, "`groups` must leave more than one channel a group"),
        ({"padding_mode": "mirror"}, "`padding_mode` must be 'circular', 'zeros', 'reflect' or"),
        ({"padding": "full"}, "`padding` must be 'same', 'valid', an integer or a tuple"),
        ({"padding": 2}, "at most dilation * (kernel_size - 1) / 2"),
        ({"padding": -1}, "`padding` must be an integer >= 0"),
        ({"padding": (1, 1, 1)}, "`padding` must be an integer >= 0 or a tuple of 2"),
        ({"stride": 4, "out_channels": 30}, "`out_channels` must be at most 27 for an orthogonal"),
        ({"stride": 0}, "`stride` must be a positive integer or a tuple of 2; got 0"),
        ({"kernel_size": 0}, "`kernel_size` must be a positive integer or a tuple of 2; got 0"),
        ({"kernel_size": 2.5}, "got 2.5"),
        ({"in_channels": 0}, "`in_channels` must be a positive integer; got 0"),
        ({"in_channels": "8"}, "`in_channels` must be a positive integer; got '8'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    given = {"in_channels": 3, "out_channels": 3, "kernel_size": 3} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        taut.nn.Conv2d(**given)


@pytest.mark.parametrize("group_size", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [1, 2, 6, 7])
def test_group_sort_against_a_loop(group_size, channels):
    x = torch.randn(2, channels, 3)
    expected = x.clone()
    for start in range(0, channels - group_size + 1, group_size):
        group = x[:, start : start + group_size]
        expected[:, start : start + group_size] = group.sort(1).values
    assert torch.equal(taut.nn.GroupSort(group_size)(x), expected)


@pytest.mark.parametrize("channels", [2, 6, 7])
@pytest.mark.parametrize("spatial", [(), (3,), (2, 3)])
def test_maxmin_is_group_sort_of_size_2_up_to_a_permutation(channels, spatial):
    x = torch.randn(2, channels, *spatial)
    half = channels // 2
    neighbours = [i // 2 + half * (i % 2) for i in range(2 * half)] + [*range(2 * half, channels)]
    sorted_pairs = taut.nn.GroupSort(2)(x[:, neighbours])
    back = [1 + 2 * i for i in range(half)] + [2 * i for i in range(half)]
    assert torch.equal(taut.nn.MaxMin()(x), sorted_pairs[:, [*back, *range(2 * half, channels)]])


@pytest.mark.parametrize(
    "activation", [taut.nn.MaxMin(), taut.nn.GroupSort(2), taut.nn.GroupSort(3)]
)
def test_jacobian_of_sorting_is_a_permutation(activation):
    x = torch.randn(1, 7, 2)
    jacobian = torch.autograd.functional.jacobian(activation, x).reshape(14, 14)
    assert torch.equal(jacobian @ jacobian.T, torch.eye(14))
    assert ((jacobian == 0) | (jacobian == 1)).all()


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_gradients_of_maxmin(channels):
    x = torch.randn(2, channels, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(taut.nn.MaxMin(), (x,))
    assert torch.autograd.gradgradcheck(taut.nn.MaxMin(), (x,))


@pytest.mark.parametrize(
    "make",
    [
        taut.nn.MaxMin,
        lambda: taut.nn.Conv2d(4, 6, 3),
        lambda: taut.nn.Conv2d(4, 6, 4, stride=2),
        lambda: taut.nn.Conv2d(4, 6, 3, padding_mode="zeros"),
    ],
    ids=["maxmin", "conv", "strided", "zeros"],
)
def test_channels_that_lie_last_in_memory_stay_there_in_training(make):
    layer = make()
    x = torch.randn(3, 4, 8, 10, requires_grad=True)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    expected, y = layer(x), layer(last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(expected, x, grad)
    (found,) = torch.autograd.grad(y, last, grad)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_maxmin_moves_every_bit_of_a_gradient(dtype, channels):
    x = torch.randn(3, channels, 4, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(x)
    grad[0], grad[1, :, 0] = torch.nan, -torch.inf
    half = channels // 2
    kept = x[:, :half] >= x[:, half : 2 * half]
    a, b = grad[:, :half], grad[:, half : 2 * half]
    expected = (torch.where(kept, a, b), torch.where(kept, b, a), grad[:, 2 * half :])
    (found,) = torch.autograd.grad(taut.nn.MaxMin()(x), x, grad)
    assert torch.equal(found.nan_to_num(), torch.cat(expected, 1).nan_to_num())
    assert torch.equal(found.isnan(), torch.cat(expected, 1).isnan())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_gradients_of_maxmin_under_transforms():
    maxmin, x = taut.nn.MaxMin(), torch.randn(2, 5, 2)
    jacobian = torch.autograd.functional.jacobian(maxmin, x)
    batched = torch.autograd.functional.jacobian(maxmin, x, vectorize=True)
    assert torch.equal(batched, jacobian)
    many, grad = torch.randn(3, 2, 5, 2), torch.randn(2, 5, 2)
    found = torch.func.vmap(lambda x: torch.func.vjp(maxmin, x)[1](grad)[0])(many)
    expected = [torch.func.vjp(maxmin, x)[1](grad)[0] for x in many]
    assert torch.equal(found, torch.stack(expected))

    def slope(weight: Tensor) -> Tensor:
        return torch.func.grad(lambda x: (maxmin(x) * weight).sum())(x)

    assert torch.equal(torch.func.jvp(slope, (grad,), (grad,))[1], slope(grad))
    negated = torch.randn(2, 5, 2, dtype=torch.complex64).conj().imag
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(maxmin(leaf), leaf, negated)
    assert torch.equal(found, slope(negated.resolve_neg()))


def test_gradient_of_a_tie_is_a_permutation():
    x = torch.ones(1, 4, requires_grad=True)
    grad = torch.arange(4.0)[None]
    assert torch.equal(torch.autograd.grad(taut.nn.MaxMin()(x), x, grad)[0], grad)


@pytest.mark.parametrize(
    ("left", "right"),
    one_in(
        3, itertools.product([(1, 1), (0, 2), (3, 4), (5, 0)], [(1, 1), (2, 0), (0, 0), (0, 9)])
    ),
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_circular_padding_and_its_gradients(left, right, memory):
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64).to(memory_format=memory).requires_grad_()

    def wrap(x: Tensor) -> Tensor:
        return pad(x, Pads((0, 0), left, right), "circular")

    rows = torch.arange(-left[0], 3 + right[0]) % 3
    columns = torch.arange(-left[1], 4 + right[1]) % 4
    assert torch.equal(wrap(x), x[:, :, rows][:, :, :, columns])
    assert torch.autograd.gradcheck(wrap, (x,))
    assert torch.autograd.gradgradcheck(wrap, (x,))


def test_groups_of_no_channel_are_refused():
    with pytest.raises(ValueError, match="`group_size` must be a positive integer; got 0"):
        taut.nn.GroupSort(0)


def net() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.Conv2d(1, 4, 3),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 6, 4, 2, parametrization=partial(taut.RKO)),
        taut.nn.GroupSort(3),
        nn.Flatten(),
        taut.nn.Linear(6 * 9, 5),
    )


def step(model: nn.Module) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(3, 1, 6, 6)).square().sum().backward()
    optimiser.step()


def test_parameters_are_born_in_the_constructor():
    """An optimiser made before the first forward trains everything; keys never change."""
    model = net()
    keys, optimiser = list(model.state_dict()), torch.optim.Adam(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 1, 6, 6)).square().sum().backward()
    optimiser.step()
    assert list(model.state_dict()) == keys
    assert all(p.grad is not None for p in model.parameters())
    assert all(not torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_forward_writes_nothing():
    model = net()
    before = copy.deepcopy(model.state_dict())
    attributes = {name: set(vars(m)) for name, m in model.named_modules()}
    model(torch.randn(2, 1, 6, 6)).sum().backward()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert attributes == {name: set(vars(m)) for name, m in model.named_modules()}


def test_eval_equals_train_after_a_step():
    model, x = net(), torch.randn(2, 1, 6, 6)
    step(model)
    train = model.train()(x)
    assert torch.equal(train, model.eval()(x))
    with torch.no_grad():  # layers use their weight there, as a frozen one does: equal to rounding
        kept = model(x)
        assert torch.allclose(train, kept, atol=1e-6)
        assert torch.equal(kept, model.train()(x))
        with taut.cached():
            assert torch.equal(kept, model(x))
            assert torch.equal(kept, model.eval()(x))


@pytest.mark.parametrize("training", [True, False])
def test_state_dict_round_trips_through_safetensors(training):
    source, target, x = net(), net(), torch.randn(2, 1, 6, 6)
    step(source)
    target.train(training)(x)
    target.load_state_dict(load_safetensors(save_safetensors(source.state_dict())))
    assert torch.equal(source(x), target(x))


def test_whole_modules_pickle():
    buffer, model, x = io.BytesIO(), net(), torch.randn(2, 1, 6, 6)
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), model(x))


def test_deepcopy_stands_alone():
    model, x = net(), torch.randn(2, 1, 6, 6)
    twin = copy.deepcopy(model)
    before = model(x)
    step(twin)
    assert torch.equal(model(x), before)
    assert not torch.equal(twin(x), before)


def test_double_and_back():
    model, x = net(), torch.randn(2, 1, 6, 6)
    single = model(x)
    double = model.double()(x.double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)
    assert torch.allclose(model.float()(x), single, atol=1e-5)


def test_averaged_model_averages_raw_tensors():
    model = net()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    x = torch.randn(2, 1, 6, 6)
    assert torch.equal(averaged(x), model(x))
    assert (spectrum(averaged.module[0].double(), (1, 6, 6)) - 1).abs().max() < 1e-12


def count_weights(monkeypatch) -> list[int]:
    calls = [0]
    original = taut.BCOP.weight

    def counting(self):
        calls[0] += 1
        return original(self)

    monkeypatch.setattr(taut.BCOP, "weight", counting)
    return calls


def test_cached_computes_a_weight_once(monkeypatch):
    calls, layer, x = count_weights(monkeypatch), taut.nn.Conv2d(2, 2, 3), torch.randn(1, 2, 4, 4)
    with torch.no_grad(), taut.cached():
        for _ in range(3):
            layer(x)
        with taut.cached():  # nested: the same cache
            layer(x)
        assert calls == [1]
    with torch.no_grad():
        layer(x)
        layer(x)
    assert calls == [3]


def test_cached_serves_attacks_on_models_that_need_no_gradient(monkeypatch):
    calls, layer = count_weights(monkeypatch), taut.nn.Conv2d(2, 2, 3).requires_grad_(False)
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    with taut.cached():
        for _ in range(2):
            (gradient,) = torch.autograd.grad(layer(x).square().sum() / 2, x)
    plain = F.conv_transpose2d(layer(x), layer.weight)  # the adjoint, before it wraps round
    assert torch.allclose(gradient.sum(), plain.sum(), atol=1e-4)
    assert calls[0] == 3  # once in the context, twice after it


def test_cached_never_loses_a_gradient_or_serves_a_stale_weight():
    layer, x = taut.nn.Conv2d(2, 2, 3), torch.randn(1, 2, 4, 4)
    with taut.cached():
        with torch.no_grad():
            before = layer(x)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
        layer(x).square().sum().backward()
        assert layer.parametrization.raw_matrix.grad.abs().sum() > 0
        optimiser.step()
        with torch.no_grad():
            assert not torch.equal(layer(x), before)
            layer.load_state_dict(taut.nn.Conv2d(2, 2, 3).state_dict())
            loaded = layer(x)
            layer.double()
            assert torch.allclose(layer(x.double()).float(), loaded, atol=1e-5)
    assert torch.allclose(layer.float()(x), loaded, atol=1e-5)


def test_cached_across_inference_mode():
    layer, x = taut.nn.Linear(3, 3), torch.randn(1, 3, requires_grad=True)
    layer.requires_grad_(False)
    with taut.cached():
        with torch.inference_mode():
            layer(x)
        layer(x).sum().backward()
    assert x.grad is not None


def test_deep_net_keeps_gradient_norms():
    """Thirty orthogonal layers with MaxMin: the norm of a gradient goes through unchanged."""
    layers = [m for _ in range(30) for m in (taut.nn.Conv2d(8, 8, 3), taut.nn.MaxMin())]
    model, x = nn.Sequential(*layers), torch.randn(2, 8, 5, 5, requires_grad=True)
    y = model(x)
    grad = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, grad)
    norms = grad.flatten(1).norm(dim=1), found.flatten(1).norm(dim=1)
    assert torch.allclose(*norms, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_their_precision_under_autocast(dtype):
    model, x = net(), torch.randn(2, 1, 6, 6)
    with torch.autocast("cpu", dtype=dtype):
        for layer in (model[0], model[2], model[5]):
            weight = layer.weight
            assert weight.dtype == torch.float32
            assert torch.equal(weight, copy.deepcopy(layer).weight)
        y = model(x)
    assert torch.equal(model[0].weight, model[0].weight)
    assert y.dtype == dtype
    assert torch.allclose(y.float(), model(x), atol=0.1)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_jacobian_by_functorch():
    model, x = net().double(), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: model(x[None])[0]))(x)
    (expected,) = torch.autograd.grad(model(x.requires_grad_())[:, 2].sum(), x)
    assert torch.allclose(jacobian[:, 2], expected)


COMPILED = """
import torch, taut
model = taut.models.Small().build((1, 28, 28), 10).train({training})
compiled, x = torch.compile(model, fullgraph=True, backend="aot_eager"), torch.rand(2, 1, 28, 28)
with torch.set_grad_enabled({training}):
    assert torch.allclose(compiled(x), model(x), atol=1e-5)
if {training}:
    raws = list(model.parameters())
    grads = [torch.autograd.grad(f(x).square().sum(), raws) for f in (compiled, model)]
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(*grads, strict=True))
"""


@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiled_in_one_graph(training):
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    code = COMPILED.format(training=training)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_exported_with_any_size_of_batch(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    layers = [taut.nn.Conv2d(1, 96, 3), nn.Flatten(), taut.nn.Linear(96 * 4, 3)]
    model, batch = nn.Sequential(*layers).eval(), {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (torch.rand(2, 1, 2, 2),), dynamic_shapes=(batch,))
    for n in (1, 5):
        x = torch.rand(n, 1, 2, 2)
        torch.testing.assert_close(program.module()(x), model(x))
