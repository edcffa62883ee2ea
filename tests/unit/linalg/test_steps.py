"""Steps applied to images are the convolution with the kernel they would make."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

import taut
from taut.linalg import steps
from taut.linalg.bases import orthonormal_basis
from taut.linalg.block import grow
from taut.linalg.steps import apply_steps
from taut.linalg.windows import Windows
from taut.parametrizations import _composed
from taut.parametrizations._composed import AbstractComposed

MOVES = [(0, 1), (1, 1), (0, -1), (1, -1)]
KERNELS = [(3, 3), (1, 3), (2, 2), (4, 3), (5, 5), (2, 1), (7, 4)]
SIZES = [(8, 8), (5, 6), (1, 4), (3, 2)]


@pytest.fixture
def narrow(monkeypatch):
    """Let narrow layers, too, apply steps: the operations are counted as for wide ones."""
    monkeypatch.setattr(_composed, "_LEAST_CHANNELS", 2)
    monkeypatch.setattr(_composed, "_NARROW", 0)


def plain(layer: taut.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The layer through its kernel and torch's circular padding by index."""
    rows, columns = layer.pads((x.shape[-2], x.shape[-1]))[1:]
    index = [
        torch.arange(-a, n + b) % n for a, b, n in zip(rows, columns, x.shape[-2:], strict=True)
    ]
    return F.conv2d(x[..., index[0][:, None], index[1]], layer.weight, layer.bias, layer.stride)


def applies_steps(layer, x: torch.Tensor) -> bool:
    """Whether the layer applies the factors of its kernel to these images."""
    windows = Windows(layer.stride, layer.dilation, layer.pads(layer.stride).left)
    return layer.parametrization.transform(x, layer.bias, windows) is not None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (5, 5), (3, 4), (4, 3)])
def test_applied_steps_are_the_kernel(monkeypatch, inputs, outputs, kernel_size, size):
    monkeypatch.setattr(AbstractComposed, "_steps_are_cheaper", lambda *_: True)
    layer = taut.nn.Conv2d(inputs, outputs, kernel_size, dtype=torch.float64)
    x = torch.randn(2, inputs, *size, dtype=torch.float64)
    assert applies_steps(layer, x)
    assert torch.allclose(layer(x), plain(layer, x), atol=1e-12)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "applied"),
    [
        (3, 1, "same", True),
        (3, 1, 1, True),
        ((5, 1), 1, (2, 0), True),
        (4, 2, 1, True),
        (3, 1, 0, False),
        (5, 1, 1, False),
        (3, 1, (1, 0), False),
    ],
)
def test_circular_layers_that_keep_the_domain_apply_steps(
    monkeypatch, size, stride, padding, applied
):
    monkeypatch.setattr(AbstractComposed, "_steps_are_cheaper", lambda *_: True)
    layer = taut.nn.Conv2d(4, 4, size, stride, padding, dtype=torch.float64)
    calls, apply = [], AbstractComposed._applied
    counted = lambda *a, **k: calls.append(1) or apply(*a, **k)  # noqa: E731
    monkeypatch.setattr(AbstractComposed, "_applied", counted)
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    assert torch.allclose(layer(x), plain(layer, x), atol=1e-12)
    assert bool(calls) == applied


# name, channels, kernel size, stride, dilation, groups, windows
GENERAL = [
    ("Conv1d", (3, 5), (5,), (2,), (1,), 1, (3,)),
    ("Conv1d", (4, 12), (3,), (4,), (3,), 2, (2,)),
    ("Conv1d", (3, 2), (4,), (2,), (2,), 1, (1,)),
    ("Conv2d", (3, 4), (4, 4), (2, 2), (1, 1), 1, (3, 5)),
    ("Conv2d", (2, 16), (6, 6), (3, 3), (1, 1), 1, (1, 2)),
    ("Conv2d", (4, 1), (4, 3), (2, 1), (1, 1), 1, (4, 4)),
    ("Conv2d", (3, 9), (5, 3), (2, 2), (1, 1), 1, (2, 3)),
    ("Conv2d", (4, 6), (3, 3), (1, 1), (2, 3), 2, (5, 4)),
    ("Conv2d", (2, 4), (5, 2), (3, 4), (2, 1), 1, (2, 2)),
    ("Conv2d", (3, 3), (3, 4), (2, 4), (4, 2), 1, (3, 1)),
    ("Conv3d", (2, 3), (3, 2, 3), (1, 1, 1), (1, 1, 1), 1, (3, 2, 4)),
    ("Conv3d", (4, 6), (3, 2, 2), (2, 1, 2), (1, 2, 1), 2, (2, 3, 1)),
    ("ConvTranspose1d", (6, 2), (5,), (3,), (1,), 1, (4,)),
    ("ConvTranspose2d", (8, 2), (4, 4), (2, 2), (1, 1), 1, (3, 4)),
    ("ConvTranspose2d", (3, 5), (3, 3), (2, 2), (1, 3), 1, (2, 3)),
    ("ConvTranspose2d", (4, 6), (2, 3), (3, 2), (1, 2), 2, (1, 2)),
    ("ConvTranspose3d", (4, 2), (3, 2, 2), (1, 2, 1), (2, 1, 1), 1, (2, 2, 3)),
]


@pytest.mark.parametrize("method", [taut.BCOP, taut.SCFac, taut.FiniteReflector])
@pytest.mark.parametrize(
    ("name", "channels", "size", "stride", "dilation", "groups", "windows"), GENERAL
)
def test_factors_of_every_kind_of_layer_are_its_kernel(
    monkeypatch, method, name, channels, size, stride, dilation, groups, windows
):
    options = {"stride": stride, "dilation": dilation, "groups": groups, "dtype": torch.float64}
    options["parametrization"] = method
    layer = getattr(taut.nn, name)(*channels, size, **options)
    transposed = "Transpose" in name
    sizes = windows if transposed else [n * s for n, s in zip(windows, stride, strict=True)]
    x = torch.randn(2, channels[0], *sizes, dtype=torch.float64, requires_grad=True)
    results, calls, apply = [], [], AbstractComposed._applied
    counted = lambda *a, **k: calls.append(1) or apply(*a, **k)  # noqa: E731
    monkeypatch.setattr(AbstractComposed, "_applied", counted)
    for cheaper in (False, True):
        monkeypatch.setattr(AbstractComposed, "_steps_are_cheaper", lambda *_, c=cheaper: c)
        y = layer(x)
        grad = torch.arange(y.numel(), dtype=y.dtype).sin().reshape(y.shape)
        results.append((y, *torch.autograd.grad(y, (x, *layer.parameters()), grad)))
    assert len(calls) == 1
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(*results, strict=True))


def test_steps_of_a_single_channel_move_nothing():
    x = torch.randn(2, 4, 1)
    assert torch.equal(apply_steps(x, torch.empty(3, 1, 0), [(0, 1), (0, -1), (0, 2)]), x)


def test_one_step_is_grown_by_two_taps():
    basis = orthonormal_basis(torch.randn(4, 2, dtype=torch.float64))
    taps = grow(torch.eye(4, dtype=torch.float64)[None, None, None], basis[None], 1)[0]
    x = torch.randn(1, 4, 3, 5, dtype=torch.float64)
    expected = F.conv2d(torch.cat((x[..., -1:], x), 3), taps.permute(2, 3, 0, 1))
    y = apply_steps(x.movedim(1, -1), basis[None], [(1, 1)]).movedim(-1, 1)
    assert torch.allclose(y, expected)


def test_derivatives_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(AbstractComposed, "_steps_are_cheaper", lambda *_: True)
    layer = taut.nn.Conv2d(4, 4, 3, dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)

    def f(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x, *values))
    assert torch.autograd.gradgradcheck(lambda x: layer(x).pow(2), (x,))


def test_images_in_parts_give_the_same(monkeypatch):
    x = torch.randn(5, 6, 6, 4, dtype=torch.float64, requires_grad=True)
    bases = orthonormal_basis(torch.randn(4, 4, 2, dtype=torch.float64)).requires_grad_()
    grad = torch.randn(5, 6, 6, 4, dtype=torch.float64)
    results = []
    for numbers, positions in ((1, 1), (1 << 18, 1 << 10), (2 * 144, 1)):
        monkeypatch.setattr(steps, "_PART_NUMBERS", numbers)
        monkeypatch.setattr(steps, "_PART_POSITIONS", positions)
        y = apply_steps(x, bases, MOVES)
        results.append((y, *torch.autograd.grad(y, (x, bases), grad)))
    for other in results[1:]:
        assert all(torch.allclose(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_default_layers_choose_steps_and_stay_exact(layout):
    """128 channels in float32: as a user gets them, against float64."""
    layer = taut.nn.Conv2d(128, 128, 3)
    x = torch.randn(16, 128, 8, 8).contiguous(memory_format=layout).requires_grad_()
    assert applies_steps(layer, x)
    twin, grad = copy.deepcopy(layer).double(), torch.randn(16, 128, 8, 8)
    doubled = x.detach().double().requires_grad_()
    layer(x).backward(grad)
    plain(twin, doubled).backward(grad.double())
    for name, (p, q) in {
        "input": (x, doubled),
        **{name: (p, twin.get_parameter(name)) for name, p in layer.named_parameters()},
    }.items():
        assert p.grad is not None
        assert q.grad is not None
        distance = (p.grad - q.grad).norm() / q.grad.norm()
        assert distance < 2e-6, name


def test_few_positions_few_channels_and_no_torus_take_the_kernel():
    x = torch.randn(16, 128, 8, 8)
    assert applies_steps(taut.nn.Conv2d(128, 128, 3), x)
    assert not applies_steps(taut.nn.Conv2d(128, 64, 3), x)
    assert not applies_steps(taut.nn.Conv2d(128, 64, 4, stride=2), x)
    assert applies_steps(taut.nn.Conv2d(128, 512, 4, stride=2), x[:2])
    assert not applies_steps(taut.nn.Conv2d(128, 128, 1), x)
    assert not applies_steps(taut.nn.Conv2d(64, 64, 3), x[:, :64])
    for layer in (
        taut.nn.Conv2d(128, 128, 3, padding_mode="zeros"),
        taut.nn.Conv2d(128, 128, 3, padding="valid"),
    ):
        padded = F.pad(x, (0,) * 4 if layer.padding == (0, 0) else (1,) * 4)
        assert torch.allclose(layer(x), F.conv2d(padded, layer.weight, layer.bias), atol=1e-5)


# layer, channels, kernel size, options, positions of the input, and the way that was the faster one
WAYS = [
    ("Conv2d", (128, 128), 3, {}, 8192, "kernel"),
    ("Conv2d", (128, 128), 3, {}, 64, "factors"),
    ("Conv2d", (128, 128), 5, {}, 4096, "factors"),
    ("Conv2d", (64, 64), 5, {}, 4096, "kernel"),
    ("Conv2d", (64, 64), 7, {}, 4096, "factors"),
    ("Conv2d", (256, 256), 3, {"groups": 2}, 8192, "kernel"),
    ("Conv2d", (1024, 1024), 3, {"groups": 2}, 2048, "factors"),
    ("Conv2d", (256, 256), 3, {"stride": 2}, 8192, "kernel"),
    ("Conv2d", (128, 256), 4, {"stride": 2}, 1024, "factors"),
    ("ConvTranspose2d", (256, 256), 4, {"stride": 2}, 2048, "kernel"),
    ("ConvTranspose2d", (256, 256), 4, {"stride": 2}, 256, "factors"),
    ("Conv1d", (256, 256), 9, {}, 8192, "kernel"),
    ("Conv1d", (256, 256), 9, {}, 256, "factors"),
    ("Conv3d", (64, 64), 3, {}, 4096, "factors"),
    ("Conv3d", (32, 32), 3, {}, 4096, "kernel"),
]


@pytest.mark.parametrize(("name", "channels", "size", "options", "positions", "way"), WAYS)
def test_the_way_that_was_faster_is_taken(name, channels, size, options, positions, way):
    """Times of forward and backward on one thread, either way taking turns."""
    layer = getattr(taut.nn, name)(*channels, size, **options, device="meta")
    windows = Windows(layer.stride, layer.dilation, layer.pads(layer.stride).left)
    if "Transpose" in name:
        positions *= math.prod(layer.stride)
    chosen = layer.parametrization._steps_are_cheaper(positions, windows)
    assert chosen == (way == "factors")


def test_cached_autocast_and_torch_func_take_the_kernel(narrow):
    layer = taut.nn.Conv2d(4, 4, 3)
    x = torch.randn(3, 2, 4, 5, 5)
    assert applies_steps(layer, x[0])
    expected = torch.stack([plain(layer, images) for images in x])
    assert torch.allclose(torch.func.vmap(layer)(x), expected, atol=1e-6)
    with torch.no_grad(), taut.cached():
        assert torch.equal(layer(x[0]), layer(x[0]))
        assert torch.allclose(layer(x[0]), expected[0], atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x[0]).dtype == torch.bfloat16


COMPILED = """
import torch, taut
from torch import nn
from taut.linalg.windows import Windows
model = nn.Sequential(
    taut.nn.Conv2d(3, 96, 3), taut.nn.MaxMin(), taut.nn.Conv2d(96, 96, 3), taut.nn.MaxMin(),
    taut.nn.Conv2d(96, 96, (3, 2)), nn.Flatten(), taut.nn.Linear(96 * 36, 4),
).train({training})
windows = Windows((1, 1), (1, 1), (1, 1))
assert model[2].parametrization.transform(torch.rand(8, 96, 6, 6), None, windows) is not None
compiled, x = torch.compile(model, fullgraph=True, backend="aot_eager"), torch.rand(8, 3, 6, 6)
raws = list(model.parameters())
grads = [torch.autograd.grad(f(x).square().sum(), raws) for f in (compiled, model)]
for found, expected in zip(*grads, strict=True):
    assert (found - expected).norm() < 1e-5 * expected.norm() + 1e-6
with torch.no_grad(), taut.cached(), taut.batched(model):
    assert torch.allclose(compiled(x), model(x), atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_wide_layers_compile_in_one_graph(training):
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    code = COMPILED.format(training=training)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_images_are_no_error():
    layer = taut.nn.Conv2d(128, 128, 3)
    assert layer(torch.zeros(0, 128, 4, 4)).shape == (0, 128, 4, 4)


@pytest.mark.parametrize(
    "layer", [taut.nn.Linear(8, 8, bias=False), taut.nn.Conv2d(64, 128, 3, bias=False)]
)
def test_what_follows_in_place_is_no_error(monkeypatch, layer):
    monkeypatch.setattr(AbstractComposed, "_steps_are_cheaper", lambda *_: True)
    x = torch.randn(2, *((8,) if isinstance(layer, taut.nn.Linear) else (64, 4, 4)))
    torch.nn.Sequential(layer, torch.nn.ReLU(inplace=True))(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_several_gradients_at_once(narrow):
    layer = taut.nn.Conv2d(4, 4, 3, dtype=torch.float64)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert applies_steps(layer, x)
    jacobians = [
        torch.autograd.functional.jacobian(lambda x: layer(x).sum((2, 3)), x, vectorize=vectorize)
        for vectorize in (True, False)
    ]
    assert torch.allclose(*jacobians)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_takes_the_weight():
    layer, x = taut.nn.Linear(4, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    _, tangent = torch.func.jvp(layer, (x,), (x,))
    assert torch.allclose(tangent, x @ layer.weight.T)
