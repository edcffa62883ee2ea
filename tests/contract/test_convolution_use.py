"""Convolutions as torch's layers are used: assigned, frozen, exported, certified, on any input."""

import copy
import math

import jaxtyping
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import taut
from convolution_cases import FACTORS, case_of, complete, name_of, pairwise
from convolution_layers import LAYERS, PLAIN, layer_of, matrix_of, set_raw_
from convolution_oracles import Case
from exported_nets import in_onnxruntime
from oracles import dense_operator
from taut.certification import verifier
from taut.export import export, load
from thinning import one_in

PERIODIC = FACTORS | {"padding": ["same"], "mode": ["circular"], "output_padding": [0]}
ROWS = [*pairwise(FACTORS, complete), *pairwise(PERIODIC, complete)]
KINDS = list(LAYERS)


def example(transposed: bool, axes: int, **options):
    """A layer with groups, dilation and a stride that does not divide the kernel."""
    channels = (4, 2) if transposed else (2, 4)
    return LAYERS[transposed, axes](*channels, 3, 2, groups=2, dilation=3, **options)


# Frozen


def wraps_at_most_once(values) -> bool:
    """As torch's circular padding, which frozen layers have, can."""
    conv = case_of(values).convolution()
    return conv.mode != "circular" or all(line.n >= line.span + line.s for line in conv.lines())


def is_larger_than_its_stride(values) -> bool:
    """As recorded forwards need it: steps over a whole image are refused."""
    lines = case_of(values).convolution().lines()
    return all(line.s <= line.domain + sum(line.sides) for line in lines)


FROZEN = [(name_of(v), v) for v in ROWS if wraps_at_most_once(v) and is_larger_than_its_stride(v)]


@pytest.mark.parametrize(("name", "values"), one_in(5, FROZEN))
def test_frozen_layers_are_the_layer_with_a_bound_that_holds(name, values):
    case = case_of(values)
    layer = layer_of(case, dtype=torch.float64)
    set_raw_(layer.parametrization, values["raw"])
    frozen, shape = taut.freeze(layer), (case.c_in, *case.size)
    x = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), layer(x), rtol=0, atol=1e-12)
    assert not any("raw" in key or "parametrization" in key for key in frozen.state_dict())
    norm = torch.linalg.matrix_norm(dense_operator(frozen, shape), 2).item()
    for each in (frozen, layer):
        assert norm - 1e-12 <= float(taut.lipschitz_bound(each, shape)) <= 1 + 1e-6


@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_frozen_layers_take_any_size(axes, mode):
    layer = LAYERS[False, axes](2, 4, 3, 2, padding_mode=mode, groups=2)
    frozen = taut.freeze(layer)
    for n in (4, 5, 6, 7):
        x = torch.randn(2, 2, *[n] * axes)
        assert layer(x).shape == (2, 4, *[-(-n // 2)] * axes)
        torch.testing.assert_close(frozen(x), layer(x))


def net(transposed: bool, axes: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Groups, dilation and strides that do not divide, with both modes; the shape of an image."""
    torch.manual_seed(0)
    if transposed:
        shape, first = (4, *[2] * axes), LAYERS[True, axes](4, 2, 3, 2, groups=2)
        second = LAYERS[True, axes](2, 2, 2, 1, 0, dilation=2, padding_mode="zeros")
        features = 2 * 6**axes
    else:
        shape, first = (2, *[4] * axes), LAYERS[False, axes](2, 6, 3, 2, groups=2)
        second = LAYERS[False, axes](6, 6, 2, dilation=2, padding_mode="zeros")
        features = 6 * 2**axes
    layers = [first, taut.nn.MaxMin(), second, taut.nn.MaxMin(), nn.Flatten()]
    return nn.Sequential(*layers, taut.nn.Linear(features, 3)).eval(), shape


@pytest.mark.parametrize(("transposed", "axes"), KINDS)
def test_nets_are_exported_certified_and_verified(transposed, axes, tmp_path):
    model, shape = net(transposed, axes)
    x = torch.rand(8, *shape)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(taut.freeze(model)(x), y)
    path = tmp_path / "model.onnx"
    export(taut.freeze(model), path, shape)
    onnx.checker.check_model(path, full_check=True)
    torch.testing.assert_close(in_onnxruntime(path, x), y, rtol=1e-5, atol=1e-6)
    found = taut.certify(load(path).model, x, y.argmax(1))
    assert 1e-3 < float(found.bound) <= 1 + 1e-5
    assert (found.radius > 0).any()
    assert abs(float(taut.lipschitz_bound(model, shape)) - float(found.bound)) <= 1e-6
    certificate, weights = found.save(tmp_path / "certificate.json")
    np.savez(tmp_path / "points.npz", images=x.numpy())
    said = verifier.verify(certificate, weights, tmp_path / "points.npz")
    assert f"Lipschitz bound {float(found.bound)}" in said
    assert "answers of 8 images" in said


# As torch's layers


@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate"])
@pytest.mark.parametrize("padding", ["valid", 0])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"), [(2, 2, 1), (3, 2, 1), (2, 3, 1), (3, 2, 2)]
)
def test_without_padding_nothing_is_ever_padded(axes, padding, mode, kernel_size, stride, dilation):
    """Sizes that the stride does not divide, down to one window: torch's numbers and shapes."""
    options = {"dilation": dilation, "groups": 2}
    layer = LAYERS[False, axes](4, 4, kernel_size, stride, padding, padding_mode=mode, **options)
    twin = PLAIN[False, axes](4, 4, kernel_size, stride, 0, **options)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        twin.bias.copy_(layer.bias)
        for size in ((9, 7, 6), (5, 5, 5), (6, 8, 5)):
            x = torch.randn(2, 4, *size[:axes])
            torch.testing.assert_close(layer(x), twin(x))


@pytest.mark.parametrize(("transposed", "axes"), KINDS)
@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate"])
def test_an_input_without_a_batch_is_a_batch_of_one(transposed, axes, mode):
    if transposed and mode in ("reflect", "replicate"):
        return
    layer = example(transposed, axes, padding_mode=mode, dtype=torch.float64)
    frozen = taut.freeze(layer)
    for size in ((6, 6, 6), (7, 6, 5)):
        x = torch.randn(3, layer.in_channels, *size[:axes], dtype=torch.float64)
        for each in (layer, frozen):
            alone = torch.stack([each(image) for image in x])
            torch.testing.assert_close(alone, each(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(layer(input=x), layer(x), rtol=0, atol=0)
        both = nn.Sequential(layer, taut.nn.MaxMin(-1 - axes))
        torch.testing.assert_close(both(x[0]), both(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("transposed", "axes"), KINDS)
def test_layers_made_on_meta_are_drawn_by_reset_parameters(transposed, axes):
    torch.manual_seed(3)
    expected = example(transposed, axes).state_dict()
    layer = example(transposed, axes, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.fill_(math.nan)
    torch.manual_seed(3)
    layer.reset_parameters()
    state = layer.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


ASSIGNED = [  # kernels without steps: one patch
    Case(2, 4, (1, 1), (1, 1), (4, 3), "same", (1, 1), 2),
    Case(4, 6, (2, 2), (2, 2), (4, 4), "same", (1, 1), 2),
    Case(2, 4, (2,), (2,), (6,), "same", (3,), 2),
    Case(2, 2, (2, 1, 2), (2, 1, 2), (4, 2, 2), "same", (1, 1, 1), 2),
    Case(6, 4, (2, 2), (2, 2), (2, 2), "same", (1, 1), 2, transposed=True),
]


@pytest.mark.parametrize("case", ASSIGNED, ids=str)
def test_an_orthogonal_weight_may_be_assigned(case):
    layer, other = (layer_of(case, dtype=torch.float64) for _ in range(2))
    weight = other.weight.detach()
    assert not torch.allclose(layer.weight, weight)
    layer.weight = weight
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=1e-12)
    found = dense_operator(layer, (case.c_in, *case.size))
    torch.testing.assert_close(found, matrix_of(case, weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ASSIGNED, ids=str)
def test_other_weights_are_refused_and_nothing_changes(case):
    layer = layer_of(case, dtype=torch.float64)
    before = copy.deepcopy(layer.state_dict())
    weight = layer.weight.detach()
    wrong = [
        (2 * weight, "`weight`.*off by"),
        (weight + 0.1, "`weight`.*off by"),
        (weight * math.inf, "`weight` must be finite"),
        (weight[..., None], r"`weight` must be of shape \(.*got \("),
        (weight.numpy(), "`weight` must be a tensor"),
    ]
    for value, message in wrong:
        with pytest.raises(ValueError, match=message):
            layer.weight = value
        state = layer.state_dict()
        assert all(torch.equal(state[key], before[key]) for key in before)


LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate"])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("size", [6, 7])
def test_channels_stay_last_in_memory(axes, mode, gradient, size):
    layer = LAYERS[False, axes](4, 8, 3, 2, padding_mode=mode, groups=2)
    x = torch.randn(2, 4, *[size] * axes)
    last = x.to(memory_format=LAST[axes]).requires_grad_(gradient)
    y = layer(last)
    assert y.is_contiguous(memory_format=LAST[axes])
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_channels_of_transposed_layers_stay_last_in_memory(mode, gradient):
    layer, x = taut.nn.ConvTranspose2d(8, 4, 3, 2, padding_mode=mode), torch.randn(2, 8, 3, 4)
    last = x.to(memory_format=torch.channels_last).requires_grad_(gradient)
    y = layer(last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize(("transposed", "axes"), KINDS)
def test_integers_of_numpy_are_arguments(transposed, axes, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    two, three = np.int64(2), np.int32(3)
    kind, options = LAYERS[transposed, axes], {"padding": np.int16(1), "padding_mode": "zeros"}
    layer = kind(4, 4, (three,) * axes, two, dilation=three, groups=two, **options)
    plain = PLAIN[transposed, axes](4, 4, 3, 2, dilation=3, groups=2, padding=1)
    for name in ("kernel_size", "stride", "padding", "dilation", "groups"):
        value = getattr(layer, name)
        assert value == getattr(plain, name)
        assert all(type(n) is int for n in (value if isinstance(value, tuple) else (value,)))
    x = torch.randn(1, 4, *[9] * axes)
    assert layer(x).shape == plain(x).shape
    assert layer.weight.shape == plain.weight.shape


@pytest.mark.parametrize(("transposed", "axes"), KINDS)
def test_singular_values_of_a_layer_are_the_dense_ones(transposed, axes):
    layer = example(transposed, axes, dtype=torch.float64)
    shape = (layer.in_channels, *[2 if transposed else 4] * axes)
    dense = torch.linalg.svdvals(dense_operator(layer, shape))
    found = taut.singular_values(layer, shape)
    torch.testing.assert_close(found, dense, rtol=0, atol=1e-9)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-9)
