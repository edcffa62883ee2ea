"""Two thousand random operators of every option and scale: the bound is above the dense norm."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from oracles import dense_operator
from taut.linalg.bounds import conv_norm_bound
from taut.linalg.convolution import ConvOperator
from taut.linalg.padding import Padding
from taut.program import lipschitz_bound

RANDOM = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
MODES = ["zeros", "circular", "reflect", "replicate"]
KINDS = ["gaussian", "orthogonal", "signs", "sparse", "range", "constant"]
SCALES = [1e-8, 1e-3, 1.0, 1e4, 1e8]
WILD = [5e-324, 1e-310, 1e-200, 1e-40, 1e40, 1e200, 1e300]


def make_kernel(kind, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "orthogonal":  # a rotation at one tap, and a small disturbance
        side = max(shape[:2])
        rotation = torch.linalg.qr(torch.randn(side, side, generator=generator).double()).Q
        flat = 1e-6 * kernel.reshape(*shape[:2], -1)
        flat[..., seed % flat.shape[2]] += rotation[: shape[0], : shape[1]]
        return flat.reshape(shape)
    if kind == "signs":
        return kernel.sign()
    if kind == "sparse":
        return kernel * (torch.rand(shape, generator=generator) < 0.3)
    if kind == "range":
        return kernel * 10.0 ** torch.randint(-18, 1, shape, generator=generator)
    return kernel if kind == "gaussian" else torch.ones_like(kernel)


@st.composite
def options(draw, scales=SCALES):
    """What a kernel is made of, and the arguments of its operator."""
    axes = draw(st.sampled_from([0, 1, 1, 2, 2, 2, 3]))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    outputs, inputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    taps = numbers(1, 4 if axes < 3 else 2)
    shape, seed = (outputs * groups, inputs, *taps), draw(st.integers(0, 10**6))
    made_of = draw(st.sampled_from(KINDS)), shape, seed, draw(st.sampled_from(scales))
    mode, most = draw(st.sampled_from(MODES)), 3 if axes == 1 else 2
    left, right = numbers(0, most), numbers(0, most)
    size = numbers(1, {0: 1, 1: 9, 2: 5, 3: 3}[axes])
    if mode == "reflect":
        sides = zip(left, right, size, strict=True)
        assume(all(max(a, b) < n for a, b, n in sides))
    # Classes of the package are made outside: their checks of types draw random numbers.
    return made_of, (size, numbers(1, 3), numbers(1, 3), groups), (mode, left, right)


def operator(case):
    (kind, shape, seed, scale), arguments, padding = case
    try:
        kernel = scale * make_kernel(kind, shape, seed)
        size, stride, dilation, groups = arguments
        return ConvOperator(kernel, size, stride, dilation, groups, Padding(*padding))
    except ValueError:  # no output is left
        assume(False)
        raise


def dense_norm(op):
    """The norm divided by a power of two, so that no square over- or underflows; that power."""
    largest = op.kernel.abs().max().item()
    scale = math.ldexp(1.0, min(math.frexp(largest)[1], 1023)) if largest else 1.0
    op = ConvOperator(
        op.kernel / scale, op.input_size, op.stride, op.dilation, op.groups, op.padding
    )
    matrix = dense_operator(op, (op.in_channels, *op.input_size))
    return torch.linalg.matrix_norm(matrix, 2).item(), scale


SEEN = Counter()


def check_operator(case):
    op = operator(case)
    bound = conv_norm_bound(op)
    norm, scale = dense_norm(op)
    assert bound.value >= norm * scale * (1 - 1e-13)
    SEEN["all"] += 1
    SEEN["size-free"] += "any input size" in bound.proof
    if op.is_torus:
        SEEN["torus"] += 1
        assert bound.value <= norm * scale * (1 + 2e-4)
    if op.is_torus and "any input size" not in bound.proof:
        SEEN["tight"] += 1
        assert bound.value <= norm * scale * (1 + 1e-9)


LESS, MORE = settings(RANDOM, max_examples=400), settings(RANDOM, max_examples=2000)


@pytest.mark.parametrize("drawn", [LESS, pytest.param(MORE, marks=pytest.mark.slow)])
def test_bounds_of_random_operators(drawn):
    SEEN.clear()
    drawn(given(options())(check_operator))()
    assert SEEN["all"] >= drawn.max_examples
    assert min(SEEN["size-free"], SEEN["torus"], SEEN["tight"]) >= drawn.max_examples // 40, SEEN


@settings(RANDOM, max_examples=120)
@given(options(scales=WILD))
def test_operators_of_extreme_scales(case):
    op = operator(case)
    norm, scale = dense_norm(op)
    if norm * scale > 1e307:
        return
    assert conv_norm_bound(op).value >= norm * (1 - 1e-13) * scale


LAYERS = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d]


@st.composite
def layers(draw):
    kind = draw(st.sampled_from(LAYERS))
    axes = int(kind.__name__[-2])

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    groups, size = draw(st.sampled_from([1, 2])), numbers(2, 4)
    stride = numbers(1, 2)
    extra = {"kernel_size": numbers(1, 3), "stride": stride, "padding": numbers(0, 1)}
    extra["dilation"] = numbers(1, 2)
    if "Transpose" in kind.__name__:
        extra["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in stride)
    elif axes < 3:
        extra["padding_mode"] = draw(st.sampled_from(MODES))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    channels = draw(st.integers(1, 2)) * groups
    layer = kind(channels, draw(st.integers(1, 2)) * groups, groups=groups, **extra).double()
    return layer, (channels, *size)


@settings(RANDOM, max_examples=120)
@given(layers())
def test_layers_of_torch(case):
    layer, shape = case
    try:
        matrix = dense_operator(layer, shape)
    except RuntimeError:  # no output is left
        return
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    assert float(lipschitz_bound(layer, shape)) >= norm * (1 - 1e-13)
