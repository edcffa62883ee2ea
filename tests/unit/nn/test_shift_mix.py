"""Shifts, the convolutions that two matrices make of them, and positional encodings."""

import copy
import math
from functools import partial

import jaxtyping
import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import taut
from convolution_layers import set_raw_
from exported_nets import in_onnxruntime
from oracles import dense_operator
from taut.certification import verifier
from taut.export import export, load
from thinning import one_in

SHIFTS = {1: taut.nn.Shift1d, 2: taut.nn.Shift2d, 3: taut.nn.Shift3d}
LAYERS = {1: taut.nn.ShiftMix1d, 2: taut.nn.ShiftMix2d, 3: taut.nn.ShiftMix3d}
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MODES = ["circular", "zeros"]
SIZES = {1: [(5,), (1,), (2,)], 2: [(4, 5), (1, 3)], 3: [(2, 3, 2), (1, 2, 3)]}
PLACES = [(axes, size, mode) for axes, sizes in SIZES.items() for size in sizes for mode in MODES]
RAWS = ["fresh", "gaussian", "huge", "tiny", "12 decades", "rank-deficient"]


def slow_shift(x, moved, mode):
    """Entry by entry."""
    y, size = np.zeros_like(x), x.shape[1:]
    for channel in range(len(x)):
        part = channel // moved
        for place in np.ndindex(*size):
            source = list(place)
            if part < 2 * len(size):
                source[part // 2] += 1 if part % 2 else -1
            inside = all(0 <= i < n for i, n in zip(source, size, strict=True))
            if inside or mode == "circular":
                source = [i % n for i, n in zip(source, size, strict=True)]
                y[(channel, *place)] = x[(channel, *source)]
    return y


def drawn(kind, raw="gaussian", **options):
    layer = kind(**options)
    if raw != "fresh":
        set_raw_(layer.rotation, raw)
        set_raw_(layer.parametrization, raw)
    return layer


@pytest.mark.parametrize(("axes", "size", "mode"), PLACES)
@pytest.mark.parametrize("moved", [1, 2])
def test_shifts_move_parts_of_the_channels(axes, size, mode, moved):
    shift = SHIFTS[axes](moved, mode)
    for channels in (2 * axes * moved, 2 * axes * moved + 1):
        x = torch.randn(channels, *size)
        expected = torch.from_numpy(slow_shift(x.numpy(), moved, mode))
        assert torch.equal(shift(x), expected)
        assert torch.equal(shift(x[None])[0], expected)
        program = taut.program.trace(shift, (channels, *size))
        assert torch.equal(taut.program.replay(program, x[None])[0], expected)
        matrix = dense_operator(shift, (channels, *size))
        assert matrix.count_nonzero(0).max() <= 1
        assert matrix.count_nonzero(1).max() <= 1
        assert mode == "zeros" or matrix.sum() == len(matrix)


@pytest.mark.parametrize(("axes", "size", "mode"), PLACES)
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (7, 4), (6, 9)])
def test_layer_is_its_kernel(axes, size, mode, inputs, outputs):
    layer = drawn(
        LAYERS[axes], in_channels=inputs, out_channels=outputs, padding_mode=mode,
        fraction=1 / 6, dtype=torch.float64,
    )  # fmt: skip
    x = torch.randn(3, inputs, *size, dtype=torch.float64)
    padded = F.pad(x, [1] * (2 * axes), "circular" if mode == "circular" else "constant")
    expected = CONVOLUTIONS[axes](padded, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=0, atol=1e-14)


def test_kernel_is_a_partition_of_unity_times_a_matrix():
    r"""LipNeXt's form: :math:`M \sum_g R_g^\top R_g` at tap g, with M = N R."""
    layer = drawn(taut.nn.ShiftMix2d, in_channels=10, out_channels=4, dtype=torch.float64)
    rotation, mixing = layer.rotation.weight(), layer.parametrization.weight()
    rows, expected = rotation.split([1, 1, 1, 1, 6]), torch.zeros(4, 10, 3, 3).double()
    for part, place in zip(rows, [(0, 1), (2, 1), (1, 0), (1, 2), (1, 1)], strict=True):
        expected[(..., *place)] = mixing @ rotation @ part.T @ part
    torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-14)


SPECTRA = [
    (*place, channels, raw)
    for raw in RAWS
    for channels in ((6, 6), (6, 4), (6, 9))
    for place in PLACES
]


@pytest.mark.parametrize(("axes", "size", "mode", "channels", "raw"), one_in(7, SPECTRA))
def test_spectrum(axes, size, mode, channels, raw):
    sizes = {"in_channels": channels[0], "out_channels": channels[1], "padding_mode": mode}
    for dtype, below, above in [(torch.float64, 1e-9, 1e-9), (torch.float32, 1e-5, 3e-6)]:
        layer = drawn(LAYERS[axes], raw, **sizes, dtype=dtype).double()
        s = torch.linalg.svdvals(dense_operator(layer, (channels[0], *size)))
        assert s.max() <= 1 + above
        assert mode == "zeros" or s.min() >= 1 - below
        assert s.max() - 1e-12 <= float(taut.lipschitz_bound(layer, (channels[0], *size)))
    found = taut.singular_values(layer, (channels[0], *size))
    torch.testing.assert_close(found, s, rtol=0, atol=1e-9)


def test_what_leaves_the_image_is_lost():
    layer = taut.nn.ShiftMix1d(4, 4, padding_mode="zeros", fraction=1 / 2, dtype=torch.float64)
    s = torch.linalg.svdvals(dense_operator(layer, (4, 5)))
    torch.testing.assert_close(s, torch.tensor([1.0] * 16 + [0.0] * 4).double())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_two_products_of_matrices_are_all_that_it_takes(axes):
    layer = taut.freeze(LAYERS[axes](16, 12))
    x = torch.randn(2, 16, *[4] * axes)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    assert counter.get_total_flops() == 2 * (16 * 16 + 16 * 12) * 2 * 4**axes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_frozen_layers_are_plain_and_the_same(axes, mode):
    layer = LAYERS[axes](8, 6, padding_mode=mode, gain=2.0, dtype=torch.float64)
    frozen, x = taut.freeze(layer), torch.randn(2, 8, *[3] * axes, dtype=torch.float64)
    kinds = [type(module).__name__ for module in frozen]
    assert kinds == [f"Conv{axes}d", f"Shift{axes}d", f"Conv{axes}d"]
    with torch.no_grad():
        assert torch.equal(frozen(x), layer(x))
    assert not any("raw" in key for key in frozen.state_dict())
    chain = taut.freeze(nn.Sequential(nn.Identity(), layer))
    assert [name for name, _ in chain.named_children()] == ["0", "1_rotation", "1_shift", "1"]
    bounds = [float(taut.lipschitz_bound(m, (8, *[3] * axes))) for m in (layer, frozen)]
    assert bounds == pytest.approx([2.0, 2.0], rel=1e-9)


def block(channels: int, size: tuple[int, ...], **options) -> nn.Sequential:
    axes = len(size)
    return nn.Sequential(
        taut.nn.PositionalEncoding(size), LAYERS[axes](channels, channels, **options),
        taut.nn.MaxMin(),
    )  # fmt: skip


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_nets_are_exported_certified_and_verified(axes, arithmetic, tmp_path):
    torch.manual_seed(0)
    size = (4, 3, 2)[:axes]
    blocks = [block(6, size, padding_mode=mode) for mode in MODES]
    model = nn.Sequential(*blocks, nn.Flatten(), taut.nn.Linear(6 * math.prod(size), 3))
    for encoding in (model[0][0], model[1][0]):
        nn.init.normal_(encoding.encoding)
    x, shape = torch.rand(8, 6, *size), (6, *size)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(taut.freeze(model)(x), y)
    export(taut.freeze(model), tmp_path / "model.onnx", shape)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    torch.testing.assert_close(in_onnxruntime(tmp_path / "model.onnx", x), y, rtol=1e-5, atol=1e-6)
    for each in (model, load(tmp_path / "model.onnx").model):
        found = taut.certify(each, x, y.argmax(1), arithmetic=arithmetic)
        assert 0.1 < float(found.bound) <= 1 + 1e-5
        assert (found.radius > 0).any()
        paths = found.save(tmp_path / "certificate.json")
        np.savez(tmp_path / "points.npz", images=x.numpy())
        said = verifier.verify(*paths, tmp_path / "points.npz")
        assert f"Lipschitz bound {float(found.bound)}" in said


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_gradients_are_those_of_finite_differences(axes):
    layer = drawn(LAYERS[axes], in_channels=6, out_channels=4, dtype=torch.float64)
    x = torch.randn(1, 6, *[2] * axes, dtype=torch.float64, requires_grad=True)
    raws = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def f(x, *raws):
        return torch.func.functional_call(layer, dict(zip(names, raws, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x, *raws))
    with torch.no_grad():
        for raw in layer.parameters():
            raw.zero_()
    layer(x).sum().backward()
    assert all(raw.grad.isfinite().all() for raw in layer.parameters())


def test_state_and_copies():
    layer, other = (taut.nn.ShiftMix2d(8, 4) for _ in range(2))
    x, before = torch.randn(2, 8, 3, 3), copy.deepcopy(layer.state_dict())
    y = layer.train()(x)
    assert torch.equal(layer.eval()(x), y)
    assert list(before) == ["bias", "rotation.raw_matrix", "parametrization.raw_matrix"]
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert not torch.allclose(other(x), y)
    other.load_state_dict(before)
    assert torch.equal(other(x), y)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    layer.reset_parameters()
    assert not any(torch.equal(layer.state_dict()[key], value) for key, value in before.items())
    taut.retract_(other)
    torch.testing.assert_close(other(x), y, rtol=0, atol=1e-5)


def test_layers_made_on_meta_are_drawn_by_reset_parameters():
    for make in (lambda: taut.nn.ShiftMix2d(4, 4, device="meta"),
                 lambda: taut.nn.PositionalEncoding(3, device="meta")):  # fmt: skip
        layer = make().to_empty(device="cpu")
        with torch.no_grad():
            for tensor in layer.parameters():
                tensor.fill_(math.nan)
        layer.reset_parameters()
        assert all(tensor.isfinite().all() for tensor in layer.parameters())


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last])
def test_memory_format_stays(fmt):
    x = torch.randn(2, 8, 4, 5).contiguous(memory_format=fmt).requires_grad_()
    assert taut.nn.ShiftMix2d(8, 8)(x).is_contiguous(memory_format=fmt)


def test_other_parametrizations_are_of_both_matrices():
    layer = taut.nn.ShiftMix2d(8, 6, bias=False, parametrization=partial(taut.AOL))
    assert type(layer.rotation) is type(layer.parametrization) is taut.AOL
    assert float(taut.lipschitz_bound(layer, (8, 4, 4))) <= 1 + 1e-6


def test_sizes_of_numpy_and_fractions(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    layer = taut.nn.ShiftMix2d(np.int64(100), np.int32(4), fraction=np.float32(0.25), bias=False)
    assert (layer.in_channels, layer.out_channels, layer.shift.moved) == (100, 4, 25)
    assert taut.nn.ShiftMix1d(100, 4, fraction=0.29).shift.moved == 29
    assert taut.nn.ShiftMix2d(7, 4).shift.moved == 1
    assert "bias=False" in repr(layer)
    assert "moved=25" in repr(layer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: taut.nn.ShiftMix2d(3, 3), "`in_channels` must be at least 4.*got 3"),
        (lambda: taut.nn.ShiftMix2d(8, 0), "`out_channels`.*got 0"),
        (lambda: taut.nn.ShiftMix2d(8, 8, fraction=0.3), "`fraction`.*1 / 4.*got 0.3"),
        (lambda: taut.nn.ShiftMix3d(8, 8, fraction=0), "`fraction`.*1 / 6.*got 0"),
        (lambda: taut.nn.ShiftMix1d(8, 8, fraction="1/8"), "`fraction`.*got '1/8'"),
        (lambda: taut.nn.ShiftMix1d(8, 8, padding_mode="reflect"), "`padding_mode`.*'reflect'"),
        (lambda: taut.nn.ShiftMix1d(8, 8, parametrization="BCOP"), "`parametrization`.*'BCOP'"),
        (lambda: taut.nn.Shift2d(0), "`moved`.*got 0"),
        (lambda: taut.nn.Shift2d(1)(torch.zeros(3, 2, 2)), r"`input`.*4 channels; got \(3, 2, 2\)"),
        (lambda: taut.nn.Shift2d(1)(torch.zeros(4, 2)), r"`input`.*got \(4, 2\)"),
        (lambda: taut.nn.ShiftMix1d(2, 2)(torch.zeros(3, 2)), r"`input`.*got \(3, 2\)"),
        (lambda: taut.nn.PositionalEncoding((3, 0)), r"`size`.*got \(3, 0\)"),
        (lambda: taut.nn.PositionalEncoding(3, 0), "`channels`.*got 0"),
        (lambda: taut.nn.PositionalEncoding((2, 3))(torch.zeros(1, 4, 3, 2)),
         r"`input` must have shape \(c, 2, 3\) or .*got \(1, 4, 3, 2\)"),
        (lambda: taut.nn.PositionalEncoding(3, 2)(torch.zeros(3, 3)),
         r"`input` must have shape \(2, 3\) or \(batch, 2, 3\).*got \(3, 3\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(make, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_a_kernel_is_not_assigned():
    layer = taut.nn.ShiftMix2d(4, 4)
    with pytest.raises(ValueError, match="`weight` must be of shape"):
        layer.weight = layer.weight


# Positional encodings


@pytest.mark.parametrize("size", [(5,), (4, 3), (2, 3, 2)])
@pytest.mark.parametrize("channels", [1, 4])
def test_positional_encodings_are_added(size, channels):
    layer = taut.nn.PositionalEncoding(size, channels, dtype=torch.float64)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    nn.init.normal_(layer.encoding)
    torch.testing.assert_close(layer(x) - x, layer.encoding.expand_as(x))
    assert torch.equal(layer(x[0]), layer(x)[0])
    assert float(taut.lipschitz_bound(layer, (4, *size))) == 1
    frozen = taut.freeze(layer)
    assert torch.equal(frozen(x), layer(x))
    assert not frozen.encoding.requires_grad


def test_circular_layers_learn_where_they_are():
    """Without an encoding a circular layer treats moved images alike."""
    torch.manual_seed(0)
    x = torch.randn(1, 8, 4, 4)
    layer = taut.nn.ShiftMix2d(8, 8)
    torch.testing.assert_close(layer(x.roll(1, 2)), layer(x).roll(1, 2))
    encoding = taut.nn.PositionalEncoding((4, 4))
    (layer(encoding(x)).square() * torch.arange(4)).sum().backward()
    with torch.no_grad():
        encoding.encoding -= 0.1 * encoding.encoding.grad
    moved = layer(encoding(x.roll(1, 3)))
    assert (moved - layer(encoding(x)).roll(1, 3)).abs().max() > 1e-3


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_weight_keeps_its_precision_under_autocast(axes):
    layer = LAYERS[axes](8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, copy.deepcopy(layer).weight)
        weight = layer.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, layer.weight)
