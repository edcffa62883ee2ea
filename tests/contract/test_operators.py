"""What every linear operator promises: one row of `OPERATORS` buys all checks."""

import itertools
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from oracles import dense_operator
from taut.linalg.adjoint import AdjointOperator
from taut.linalg.composed import ComposedOperator
from taut.linalg.convolution import ConvOperator
from taut.linalg.matrix import MatrixOperator
from taut.linalg.padding import MODES, Padding
from taut.linalg.rounding import U64, UNDERFLOW, gamma
from taut.linalg.series import SeriesOperator
from taut.linalg.spectral import SpectralOperator
from taut.linalg.stacked import BlockOperator, StackedOperator
from taut.linalg.twiddles import half_plane


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skew(channels, *taps, seed=0):
    kernel = random(channels, channels, *taps, seed=seed)
    flipped = kernel.transpose(0, 1).flip(*range(2, kernel.dim()))
    return (kernel - flipped) / 2


def spectral(outputs, inputs, *size, seed=0):
    """Random symbols, real where a frequency is its own mirror."""
    _, counts = half_plane(size)
    imag = random(len(counts), outputs, inputs, seed=seed + 1) * (counts == 2)[:, None, None]
    values = torch.complex(random(len(counts), outputs, inputs, seed=seed), imag)
    return SpectralOperator(values, size)


def padded(mode, n=(5, 4), k=(3, 2), **options):
    axes = len(n)
    pad = Padding(mode, (2, 1, 1)[:axes], (1, 0, 1)[:axes])
    groups = options.get("groups", 1)
    return ConvOperator(random(2 * groups, 3, *k), n, padding=pad, **options)


CENTRED = Padding("circular", (1, 1), (1, 1))
ZEROS = Padding("zeros", (1, 1), (1, 1))
STRIDED = padded("zeros", stride=(2, 1), dilation=(1, 2), groups=2)
FLAT = ConvOperator(random(2, 3, 3), (7,), padding=Padding("circular", (1,), (1,)))
SKEW = ConvOperator(0.2 * skew(2, 3, 3), (4, 5), padding=ZEROS)
WIDE = ConvOperator(skew(4, 3), (3,), padding=Padding("circular", (1,), (1,)))

# An operator, and by how much its tight bound may exceed the norm (relative).
OPERATORS = {
    **{f"{mode} 2-d": (padded(mode), 1e-9 if mode == "zeros" else 4) for mode in MODES},
    **{f"{mode} strided": (padded(mode, stride=(2, 3), dilation=(2, 1)), 4) for mode in MODES},
    "circular torus": (ConvOperator(random(3, 2, 3, 3), (4, 4), padding=CENTRED), 1e-9),
    "kernel larger than the torus": (
        ConvOperator(random(2, 2, 5), (3,), padding=Padding("circular", (2,), (2,))),
        1e-9,
    ),
    "groups": (STRIDED, 1e-9),
    "extended": (
        ConvOperator(random(2, 1, 3), (6,), (2,), padding=Padding("circular", (1,), (0,), (1,))),
        1,
    ),
    "1-d": (FLAT, 1e-9),
    "3-d": (padded("replicate", (3, 2, 2), (2, 2, 2)), 6),
    "no axes": (ConvOperator(random(4, 2), (), groups=2), 1e-9),
    "float32": (ConvOperator(random(2, 2, 3).float(), (5,)), 1e-9),
    "matrix": (MatrixOperator(random(4, 6)), 1e-9),
    "tall float32 matrix": (MatrixOperator(random(6, 4).float()), 1e-9),
    "zero matrix": (MatrixOperator(torch.zeros(2, 3)), 0.0),
    "adjoint": (AdjointOperator(STRIDED), 1e-9),
    "adjoint of copies": (AdjointOperator(padded("reflect", stride=(2, 1))), 4),
    "adjoint of an adjoint": (AdjointOperator(AdjointOperator(FLAT)), 1e-9),
    "composed": (ComposedOperator(FLAT, ConvOperator(random(4, 2, 2), (7,))), 1e-9),
    "composed and its adjoint": (ComposedOperator(FLAT, AdjointOperator(FLAT)), 1e-9),
    "single stage": (ComposedOperator(MatrixOperator(random(2, 3))), 1e-9),
    "adjoint of composed": (
        AdjointOperator(ComposedOperator(*map(MatrixOperator, (random(3, 4), random(5, 3))))),
        1e-9,
    ),
    "stacked": (StackedOperator((FLAT, ConvOperator(random(1, 3, 1), (7,)))), 1e-9),
    "stacked along rows": (StackedOperator((FLAT, ConvOperator(random(2, 3, 3), (7,))), 1), 1e-9),
    "blocks": (BlockOperator((FLAT, padded("reflect", (7,), (4,)))), 4),
    "blocks of matrices": (
        BlockOperator((MatrixOperator(random(1, 3)), MatrixOperator(random(4, 2, seed=1)))),
        1e-9,
    ),
    "spectral": (spectral(2, 3, 4, 5), 1e-9),
    "spectral 1-d": (spectral(3, 2, 7), 1e-9),
    "spectral 3-d": (spectral(2, 2, 2, 3, 2), 1e-9),
    "spectral of conjugates": (SpectralOperator(spectral(2, 3, 5).symbols.mH, (5,)), 1e-9),
    "spectral by FFT": (spectral(1, 2, 66), 1e-9),
    "adjoint of spectral": (AdjointOperator(spectral(2, 3, 4, 3)), 1e-9),
    "polynomial": (SeriesOperator(MatrixOperator(random(3, 3)), (0.5, -1.0, 0.0, 0.25)), 1e-9),
    "constant polynomial": (SeriesOperator(MatrixOperator(random(2, 2)), (-3.0,)), 1e-9),
    "exponential": (SeriesOperator.exponential(SKEW, 8), 1e-4),
    "exponential beyond its radius": (SeriesOperator.exponential(WIDE, 7), 1e-9),
    "adjoint of an exponential": (AdjointOperator(SeriesOperator.exponential(WIDE, 6)), 1e-9),
}
SINGLE_SUM = (ConvOperator, MatrixOperator)


def norm_of(matrix):
    return torch.linalg.matrix_norm(matrix, 2).item()


@pytest.fixture(params=OPERATORS)
def case(request):
    return OPERATORS[request.param]


@pytest.fixture
def op(case):
    return case[0]


def test_apply_is_the_dense_matrix(op):
    matrix = dense_operator(op.apply, op.in_shape)
    assert matrix.shape == op.shape == (math.prod(op.out_shape), math.prod(op.in_shape))
    torch.testing.assert_close(op.dense(), matrix, rtol=0, atol=0)
    x = random(3, *op.in_shape)
    y = op(x)
    assert y.dtype == torch.float64
    assert y.shape == (3, *op.out_shape)
    torch.testing.assert_close(y.flatten(1), x.flatten(1) @ matrix.T, rtol=1e-11, atol=1e-11)
    more = op(x.reshape(1, 3, *op.in_shape).float())
    torch.testing.assert_close(more[0], y, rtol=1e-4, atol=1e-4)


def test_adjoint_is_the_transposed_matrix(op):
    x, y = random(1, *op.in_shape), random(1, *op.out_shape, seed=1)
    left, right = (op.apply(x) * y).sum(), (x * op.adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)
    transposed = dense_operator(op.adjoint, op.out_shape)
    torch.testing.assert_close(transposed, op.dense().T, rtol=1e-12, atol=1e-12)


def test_bounds_are_above_the_norm_and_close(case):
    op, slack = case
    norm = norm_of(op.dense())
    loose, tight = op.norm_bound(), op.norm_bound(tight=True)
    assert norm * (1 - 1e-13) <= tight.value <= norm * (1 + slack)
    assert tight.value <= loose.value
    assert loose.proof
    assert op.abs_norm_bound() >= norm_of(op.dense().abs()) * (1 - 1e-13)


def test_singular_values_are_the_dense_ones(op):
    values = torch.linalg.svdvals(op.dense())
    torch.testing.assert_close(op.singular_values(), values, rtol=1e-9, atol=1e-9)


def test_fan_in_counts_the_products_of_a_single_sum(op):
    if isinstance(op, AdjointOperator):
        op = op.op
    if isinstance(op, SINGLE_SUM):
        assert op.fan_in >= op.dense().count_nonzero(1).max()
        assert op.adjoint_fan_in >= op.dense().count_nonzero(0).max()


def exactly(op, x, adjoint=False):
    """The operator on columns, by another route and in numpy's long doubles: 11 bits more."""
    if isinstance(op, AdjointOperator):
        return exactly(op.op, x, not adjoint)
    if isinstance(op, ComposedOperator):
        for stage in reversed(op.ops) if adjoint else op.ops:
            x = exactly(stage, x, adjoint)
        return x
    if isinstance(op, SeriesOperator):
        powers = itertools.accumulate(
            op.coefficients, lambda y, _: exactly(op.op, y, adjoint), initial=x
        )
        numbers = [
            np.longdouble(c.numerator) / np.longdouble(c.denominator) for c in op.coefficients
        ]
        return sum(c * power for c, power in zip(numbers, powers, strict=False))
    if isinstance(op, StackedOperator):
        parts = [exactly(part, x).reshape(*part.out_shape, -1) for part in op.ops]
        return np.concatenate(parts, op.axis).reshape(op.shape[0], -1)
    if isinstance(op, BlockOperator):
        rows = np.cumsum([part.shape[1] for part in op.ops])[:-1]
        parts = zip(op.ops, np.split(x, rows), strict=True)
        return np.concatenate([exactly(part, rows) for part, rows in parts])
    matrix = spectral_matrix(op) if isinstance(op, SpectralOperator) else sum_matrix(op)
    return (matrix.T if adjoint else matrix) @ x


def sum_matrix(op):
    """Tap by tap, so that no two numbers of the kernel meet in an entry."""
    if isinstance(op, MatrixOperator):
        return op.weight.numpy().astype(np.longdouble)
    total = np.zeros(op.shape, np.longdouble)
    for tap in itertools.product(*map(range, op.kernel.shape[2:])):
        kernel = torch.zeros_like(op.kernel)
        kernel[(..., *tap)] = op.kernel[(..., *tap)]
        total += replace(op, kernel=kernel).dense().numpy()
    return total


def spectral_matrix(op):
    """As circular convolution: K_t = 1/N sum of Q e^{-iwt}, entry (j, l) is K_{l-j}."""
    grid, counts = half_plane(op.size)
    places = np.array(list(itertools.product(*map(range, op.size))))
    pi = np.longdouble("3.14159265358979323846264338327950288")
    turns = grid.numpy()[:, None] * places % np.array(op.size)
    angle = (2 * pi * turns / np.array(op.size)).sum(-1)
    wave = (np.cos(angle) - 1j * np.sin(angle)) * counts.numpy()[:, None]
    kernel = np.einsum("ft,foi->oit", wave, op.symbols.numpy().astype(np.clongdouble)).real
    kernel = kernel.reshape(*kernel.shape[:2], *op.size) / np.longdouble(math.prod(op.size))
    moves = (places[None] - places[:, None]) % np.array(op.size)  # (j, l, axes)
    matrix = kernel[(slice(None), slice(None), *np.moveaxis(moves, -1, 0))]
    return matrix.transpose(0, 2, 1, 3).reshape(op.shape)


def test_rounding_of_apply_is_within_both_bounds(op):
    x = random(50, *op.in_shape, seed=3)
    exact = exactly(op, x.flatten(1).T.numpy().astype(np.longdouble))
    error = np.sqrt(np.square(op(x).flatten(1).T.numpy() - exact).sum(0))
    size, bound = x.flatten(1).norm(dim=1).numpy(), op.execution_error()
    assert (error <= bound.relative * size + bound.absolute).all()
    assert (error <= gamma(op.fan_in, U64) * op.abs_norm_bound() * size + UNDERFLOW).all()


def test_operators_are_frozen_and_refuse_other_shapes(op):
    with pytest.raises(FrozenInstanceError):
        op.fan_in = 1
    with pytest.raises(ValueError, match="`x` must have the shape"):
        op(torch.zeros(1, *op.in_shape[:-1], op.in_shape[-1] + 1))
    with pytest.raises(ValueError, match="`x` must have the shape"):
        op(torch.zeros(op.in_shape))
    with pytest.raises(ValueError, match="`y` must have the shape"):
        op.adjoint(torch.zeros(1, op.out_shape[0] + 1, *op.out_shape[1:]))
