"""Reflected and replicated padding that is an isometry, for every size, mode and runtime."""

import itertools
import re
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from oracles import dense_operator, rounding_of
from taut.export import export, load
from taut.linalg.padding import isometric_mask, padded_index
from taut.nn import IsometricPad1d, IsometricPad2d, IsometricPad3d, isometric_pad
from taut.program import PASSES, trace

KINDS = {1: IsometricPad1d, 2: IsometricPad2d, 3: IsometricPad3d}
MODES = ("reflect", "replicate")
CASES = [  # mode, size, padding as torch takes it: the last axis first
    *[
        ("reflect", (n,), pads)
        for n in (2, 3, 4, 7)
        for pads in ((1, 0), (n - 1, 1), (n - 1, n - 1))
    ],
    ("reflect", (1,), (0, 0)),
    ("reflect", (7,), (3, 3)),
    *[("replicate", (n,), pads) for n in (1, 2, 5) for pads in ((1, 0), (2, 7))],
    *[(mode, (3, 4), pads) for mode in MODES for pads in ((1, 1, 1, 1), (3, 0, 1, 2))],
    *[(mode, (5, 6), (2, 1, 0, 4)) for mode in MODES],
    *[(mode, (2, 3, 4), (3, 1, 0, 2, 1, 0)) for mode in MODES],
]
SMALL = [case for case in CASES if case[1] in ((3,), (3, 4), (2, 3, 4))]


def module(mode, size, padding):
    return KINDS[len(size)](padding, mode)


def counts(mode, size, padding):
    """How often each entry is in the padded image, counted one by one."""
    sides = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    lines = [padded_index(n, *side, mode).tolist() for n, side in zip(size, sides, strict=True)]
    count = torch.zeros(size, dtype=torch.int64)
    for place in itertools.product(*lines):
        count[place] += 1
    return count


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_singular_value_is_one(case):
    matrix = dense_operator(module(*case), (1, *case[1]))
    sigma = torch.linalg.svdvals(matrix)
    assert (sigma - 1).abs().max() < 1e-12
    assert torch.equal((matrix != 0).sum(0), counts(*case).flatten())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_factors_are_rounded_down(case, dtype):
    mode, size, padding = case
    mask = isometric_mask(torch.empty(1, *size, dtype=dtype), list(padding), mode)
    assert (mask.dtype, mask.shape) == (dtype, size)
    near = 1 - 8 * Fraction(torch.finfo(dtype).eps)
    for m, count in zip(mask.double().flatten().tolist(), counts(*case).flatten().tolist(),
                        strict=True):  # fmt: skip
        assert m == 1 if count == 1 else near < count * Fraction(m) ** 2 <= 1


def test_all_counts_are_rounded_down():
    for dtype in (torch.float32, torch.float64):
        for count in range(2, 600):
            x = torch.empty(1, 1, dtype=dtype)
            (m,) = isometric_mask(x, [count - 1, 0], "replicate").tolist()
            assert count * Fraction(m) ** 2 <= 1


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_it_is_the_padding_of_torch_of_scaled_entries(case):
    mode, size, padding = case
    x = torch.randn(2, 3, *size)
    expected = F.pad(x * isometric_mask(x, list(padding), mode), padding, mode)
    pad = module(*case)
    assert torch.equal(pad(x), expected)
    assert torch.equal(pad(x[0]), expected[0])
    assert torch.equal(pad(x.requires_grad_()).detach(), expected)
    left, right = padding[::2][::-1], padding[1::2][::-1]
    assert torch.equal(isometric_pad(x, left, right, mode).detach(), expected)
    assert torch.equal(torch.func.vmap(pad)(x.detach()), expected)
    assert pad(x.to("meta")).shape == expected.shape


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_gradients(case):
    mode, size, padding = case
    x = torch.randn(1, 1, *size, dtype=torch.float64, requires_grad=True)
    pad = module(*case)
    y = pad(x)
    plain = F.pad(x * isometric_mask(x, list(padding), mode), padding, mode)
    g = torch.randn_like(y)
    ours, torchs = (torch.autograd.grad(z, x, g, retain_graph=True)[0] for z in (y, plain))
    assert torch.allclose(ours, torchs, rtol=1e-13, atol=1e-13)
    many = torch.randn(2, *y.shape, dtype=torch.float64)
    batched = torch.autograd.grad(y, x, many, is_grads_batched=True)[0]
    apart = [torch.autograd.grad(plain, x, v, retain_graph=True)[0] for v in many]
    assert torch.allclose(batched, torch.stack(apart), atol=1e-13)
    assert torch.autograd.gradcheck(pad, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(pad, (x,), fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_channels_stay_last_in_memory(mode):
    x = torch.randn(2, 3, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = IsometricPad2d((1, 2, 3, 0), mode)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [1, (2, 0, 1, 2)])
def test_orthogonal_kernels_stay_one_lipschitz(mode, padding):
    conv = taut.nn.Conv2d(2, 3, 3, padding="same", bias=False).double()
    weight = conv.weight.detach()
    pad = IsometricPad2d(padding, mode)
    size = (2, 5, 6)
    sigma = torch.linalg.svdvals(dense_operator(lambda x: F.conv2d(pad(x), weight), size))
    plain = torch.linalg.svdvals(
        dense_operator(lambda x: F.conv2d(F.pad(x, pad.padding, mode), weight), size)
    )
    assert sigma.max() <= 1 + 1e-12 < 1.01 < plain.max()


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_float32_raises_no_norm_beyond_the_rounding_of_its_products(case):
    x = torch.randn(200, 1, *case[1])
    y, norm = module(*case)(x).double(), x.double().flatten(1).norm(dim=1)
    assert (y.flatten(1).norm(dim=1) <= norm * (1 + 2.0**-24)).all()


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_bound_and_rounding(case):
    pad, shape = module(*case), (2, *case[1])
    model = nn.Sequential(pad, nn.ReLU())
    assert float(taut.lipschitz_bound(model, shape)) == 1.0
    assert (taut.singular_values(pad, shape) - 1).abs().max() < 1e-12
    x = torch.randn(20, *shape)
    rounding, count = rounding_of(pad, shape), counts(*case)
    exact = F.pad(x.double() / count.double().sqrt(), case[2], case[0])
    error = (pad(x).double() - exact).abs()
    assert (error <= rounding.count * 2.0**-24 * exact.abs() + 1e-40).all()
    assert rounding.absolute == 1.0


SHAPE, OPS = (2, 5, 6), ["conv", "IsometricPad2d", "conv", "IsometricPad2d", "relu"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 1),
        IsometricPad2d((1, 2, 2, 0)),
        nn.Conv2d(3, 2, 3),
        IsometricPad2d((0, 1, 3, 1), "replicate"),
        nn.ReLU(),
    ).eval()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_files_hold_the_same_padding(tmp_path, suffix):
    model = net()
    exported = export(taut.freeze(model), tmp_path / f"model{suffix}", SHAPE)
    x = torch.randn(3, *SHAPE)
    assert [node.op for node in exported.model.program.nodes] == OPS
    assert torch.equal(exported.model(x), model(x))
    bound = taut.lipschitz_bound(exported.model, SHAPE, passes=("recognise_isometric_pads",))
    norms = [float(taut.lipschitz_bound(model[i], s)) for i, s in ((0, SHAPE), (2, (3, 7, 9)))]
    assert float(bound) == pytest.approx(norms[0] * norms[1], rel=1e-12)
    if suffix == ".safetensors":  # the file of plain torch beside it
        scope = {"__file__": str(tmp_path / "model.py"), "__name__": "model"}
        exec((tmp_path / "model.py").read_text(), scope)
        x = torch.randn(3, 2, 8, 7)
        assert torch.equal(scope["load"]()(x), model(x))


# Which torch before 2.13 says of constants in its own files.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_files_for_any_size(tmp_path, suffix):
    model, path = net(), tmp_path / f"model{suffix}"
    export(model, path, SHAPE, any_size=True)
    x = torch.randn(2, 2, 9, 4)
    read = load(path, (2, 9, 4))
    assert [node.op for node in read.model.program.nodes] == OPS
    assert torch.equal(read.model(x), model(x))
    if suffix == ".onnx":
        import onnxruntime

        (y,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
        assert (torch.from_numpy(y) - model(x)).abs().max() < 1e-6
    else:
        assert torch.equal(torch.export.load(path).module()(x), model(x))


@pytest.mark.parametrize("change", ["larger", "another mode", "moved"])
def test_another_mask_is_no_isometry(change):
    mask = isometric_mask(torch.empty(1, 5, 6), [1, 1, 1, 1], "reflect")
    mode = "replicate" if change == "another mode" else "reflect"
    mask = mask.roll(1, 0) if change == "moved" else mask
    if change == "larger":
        mask[1, 1] = torch.nextafter(mask[1, 1], torch.tensor(1.0))

    class Written(nn.Module):
        def forward(self, x):
            return F.pad(x * mask, (1, 1, 1, 1), mode)

    assert float(taut.lipschitz_bound(Written(), (1, 5, 6))) > 1.0
    assert "recognise_isometric_pads" in PASSES


def test_written_out_it_is_recognised():
    mask = isometric_mask(torch.empty(1, 5, 6), [1, 0, 2, 1], "reflect")

    class Written(nn.Module):
        def forward(self, x):
            return F.pad(x * mask, (1, 0, 2, 1), "reflect")

    assert [node.op for node in trace(Written(), (1, 5, 6)).nodes] == ["IsometricPad2d"]
    assert float(taut.lipschitz_bound(Written(), (1, 5, 6))) == 1.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(3, 3, 1), (3, 1, 3)], ids=str)
def test_a_mask_along_other_axes_is_no_isometry(mode, shape):
    mask = isometric_mask(torch.empty(3, 3, 3), [1, 1, 1, 1], mode).reshape(shape)

    class Written(nn.Module):
        def forward(self, x):
            return F.pad(x * mask, (1, 1, 1, 1), mode)

    norm = torch.linalg.matrix_norm(dense_operator(Written(), (3, 3, 3)), 2)
    assert norm > 1.4
    assert float(taut.lipschitz_bound(Written(), (3, 3, 3))) > norm * (1 - 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mask_of_16_bits_stays_as_it_is(dtype, tmp_path):
    mask = isometric_mask(torch.empty(1, 5, 6, dtype=dtype), [1, 1, 1, 1], "reflect")

    class Written(nn.Module):
        def forward(self, x):
            return F.pad(x * mask, (1, 1, 1, 1), "reflect")

    x = torch.randn(2, 1, 5, 6)
    read = export(Written(), tmp_path / "model.safetensors", (1, 5, 6)).model
    assert torch.equal(read(x), Written()(x))


@pytest.mark.parametrize("arguments", [(-1,), (1.5,), ((1, 2),), (1, "circular"), (True,)], ids=str)
def test_wrong_arguments_are_refused(arguments, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=r"`(padding|mode)` must be .*; got ") as caught:
        IsometricPad2d(*arguments)
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_refused():
    words = "`padding` must be smaller than the size of the input to reflect it; got [0, 0, 4, 1]"
    with pytest.raises(ValueError, match=re.escape(words)):
        IsometricPad2d((0, 0, 4, 1))(torch.zeros(1, 1, 4, 9))
    with pytest.raises(ValueError, match="with 2 spatial axes; got the shape \\(4, 9\\)"):
        IsometricPad2d(1)(torch.zeros(4, 9))
