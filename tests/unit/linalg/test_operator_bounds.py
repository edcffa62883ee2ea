"""Bounds of composed, stacked, spectral and series operators: what their contract does not show."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

from taut.linalg import operator, rounding, series, spectral, twiddles
from taut.linalg.adjoint import AdjointOperator
from taut.linalg.composed import ComposedOperator
from taut.linalg.convolution import ConvOperator
from taut.linalg.matrix import MatrixOperator
from taut.linalg.operator import ExecutionError
from taut.linalg.padding import Padding
from taut.linalg.rounding import U32, U64
from taut.linalg.series import SeriesOperator
from taut.linalg.spectral import SpectralOperator
from taut.linalg.spectrum import symbols
from taut.linalg.stacked import BlockOperator, StackedOperator
from taut.linalg.twiddles import half_plane


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(value):
    return MatrixOperator(torch.tensor([[value]], dtype=torch.float64))


def skew(channels, *taps, norm=1.0, mode="circular", size=(5, 6), dilation=(), groups=1, seed=0):
    """A generator of about the norm, and never above it."""
    kernel = random(groups, channels, channels, *taps, seed=seed)
    kernel = (kernel - kernel.transpose(1, 2).flip(*range(3, kernel.dim()))).flatten(0, 1)
    reach = tuple(d * (k // 2) for d, k in zip(dilation or [1] * len(taps), taps, strict=True))
    options = {"dilation": dilation, "groups": groups, "padding": Padding(mode, reach, reach)}
    bound = ConvOperator(kernel, size[: len(taps)], **options).norm_bound().value
    return ConvOperator(kernel * (norm / bound * (1 - 1e-9)), size[: len(taps)], **options)


# Small operators, as dense matrices


def test_rounding_of_the_dense_matrix_counts_once_a_column(monkeypatch):
    op = ComposedOperator(MatrixOperator(random(3, 4)), MatrixOperator(random(5, 3, seed=1)))
    norm = torch.linalg.matrix_norm(op.dense(), 2).item()
    assert op.norm_bound().proof == "spectral norm of the dense operator"
    error = ExecutionError(0.01 * norm, 0.02 * norm)
    monkeypatch.setattr(ComposedOperator, "execution_error", lambda self, u=U64: error)
    product = math.prod(stage.norm_bound().value for stage in op.ops)
    assert min(product, norm * (1 + 0.03 * 2)) * (1 - 1e-12) <= op.norm_bound().value


def test_products_of_numbers_are_not_below_the_exact_ones():
    for seed in range(15):
        values = random(3, seed=seed).tolist()
        bound = ComposedOperator(*map(number, values)).norm_bound().value
        exact = abs(math.prod(map(Fraction, values)))
        assert exact <= Fraction(bound) <= exact * (1 + Fraction(1, 10**14))


@pytest.mark.parametrize(
    "values", [(1e-200, 1e-200), (1e-200, 1e-200, 1e300), (5e-324, 0.5, 1e200)]
)
def test_underflow_between_stages_counts(values):
    op, exact = ComposedOperator(*map(number, values)), math.prod(map(Fraction, values))
    assert exact <= Fraction(op.norm_bound().value)
    error = op.execution_error()
    missed = abs(exact - Fraction(op(torch.ones(1, 1)).item()))
    assert missed <= Fraction(error.relative) + Fraction(error.absolute)


def test_underflow_of_one_product_counts():
    least = 5e-324
    error = number(0.5).execution_error()
    assert error.relative >= 0.5 * U64
    missed = Fraction(least) / 2 - Fraction(number(0.5)(torch.tensor([[least]]).double()).item())
    assert 0 < missed <= Fraction(error.relative) * Fraction(least) + Fraction(error.absolute)


def test_large_operators_are_bounded_by_their_parts():
    row = MatrixOperator(random(1, 600))
    assert "product of 2 norms" in ComposedOperator(row, AdjointOperator(row)).norm_bound().proof
    row = MatrixOperator(random(1, 60000))
    assert "root of 5 squared norms" in StackedOperator([row] * 5).norm_bound().proof


def test_norms_that_overflow_are_refused():
    with pytest.raises(ValueError, match="the bound of its norm overflows"):
        ComposedOperator(number(1e200), number(1e200)).norm_bound()
    with pytest.raises(ValueError, match="the bound of their norm overflows"):
        SpectralOperator(
            torch.full((1, 2, 2), 1e308 + 0j, dtype=torch.complex128), (1,)
        ).norm_bound()


def test_opposite_maps_cancel_in_the_bound():
    turn = torch.linalg.qr(random(4, 4)).Q
    difference = ComposedOperator(MatrixOperator(torch.tensor([[1.0, -1.0]])), number(1.0))
    assert difference.norm_bound().value == pytest.approx(2**0.5, rel=1e-9)
    both = ComposedOperator(MatrixOperator(turn), MatrixOperator(turn.T[:2]))
    assert both.norm_bound().value == pytest.approx(1, rel=1e-9)


# Rounding


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_execution_errors_of_products_are_nearly_attained(stages):
    worst = Fraction(0)
    for seed in range(40):
        values = random(stages, seed=seed).abs().add(1).tolist()
        op = ComposedOperator(*map(number, values))
        missed = abs(Fraction(op(torch.ones(1, 1)).item()) - math.prod(map(Fraction, values)))
        worst = max(worst, missed / Fraction(op.execution_error().relative))
    assert (0.2 if stages > 1 else 0) <= worst <= 1


def test_errors_of_early_stages_pass_through_the_later_ones(monkeypatch):
    blocks = BlockOperator((number(1.0), number(2.0))).execution_error()
    assert blocks.relative == number(2.0).execution_error().relative

    def error(self, u=U64):
        return ExecutionError(0.25, 0.5)

    monkeypatch.setattr(MatrixOperator, "execution_error", error)
    op = ComposedOperator(number(2.0), number(8.0), number(1.0))
    total = op.execution_error()
    # |x| and the error after each stage: 2, 1/4; 16, 8/4 + (2 + 1/4) / 4; and one more
    second = 8 * 0.25 + 0.25 * 2.25
    assert total.relative == pytest.approx(second + 0.25 * (16 + second))
    assert total.absolute == pytest.approx(((8 + 0.25) * 0.5 + 0.5) * 1.25 + 0.5)
    both = StackedOperator((number(1.0), number(1.0))).execution_error()
    assert (both.relative, both.absolute) == pytest.approx((0.25 * 2**0.5, 0.5 * 2**0.5))
    blocks = BlockOperator((number(1.0), number(1.0))).execution_error()
    assert (blocks.relative, blocks.absolute) == pytest.approx((0.25, 0.5 * 2**0.5))
    line = SeriesOperator(number(2.0), (3.0, 5.0)).execution_error()
    assert line.relative == pytest.approx(0.25 * 5)
    assert line.absolute == pytest.approx((2 + 0.25) * 0.5 + 0.5)


@pytest.mark.parametrize(("size", "sides"), [((6,), (1, 1)), ((5, 8), (2, 3)), ((3, 2, 4), (3, 1))])
def test_float32_transforms_are_within_their_error(size, sides):
    _, counts = half_plane(size)
    worst = 0.0
    for seed in range(10):
        parts = random(2, len(counts), *sides, seed=seed).float()
        parts[1] *= (counts == 2)[:, None, None]
        op = SpectralOperator(torch.complex(*parts), size)
        x = random(20, *op.in_shape, seed=seed).float()
        y = op._executed(x, op.symbols.to(torch.complex64))
        assert y.dtype == torch.float32
        error = (y.double() - op(x)).flatten(1).norm(dim=1) / x.double().flatten(1).norm(dim=1)
        worst = max(worst, error.max().item() / op.execution_error(U32).relative)
    assert 1e-3 < worst <= 1


def test_tables_of_transforms_lose_a_rounding_each():
    # Of one matrix, 1, all error comes from the transforms: in u, 2 of them of an axis of 3.
    op = SpectralOperator(torch.ones(2, 1, 1) + 0j, (3,))
    assert op.execution_error().relative > 2 * 2**0.5 * 10 * 6**0.5 * U64
    assert op.execution_error().relative < 2.1 * 2**0.5 * 10 * 6**0.5 * U64
    matrix = SpectralOperator(100 * torch.ones(1, 4, 4) + 0j, (1,)).execution_error()
    # norm 400: 12 u before, 8 u of products, 12 u after
    assert matrix.relative / U64 == pytest.approx(400 * 32, rel=1e-9)
    turn = SpectralOperator(torch.tensor([[[0j]], [[1j]]]), (3,))
    assert turn.abs_norm_bound() == pytest.approx(4 * 3, rel=1e-9)


@pytest.mark.parametrize(("size", "sides"), [((6,), (1, 1)), ((5, 8), (2, 3)), ((3, 2, 4), (3, 1))])
def test_the_rounding_of_transforms_covers_their_error_in_both_precisions(size, sides):
    _, counts = half_plane(size)
    parts = random(2, len(counts), *sides)
    parts[1] *= (counts == 2)[:, None, None]
    op = SpectralOperator(torch.complex(*parts), size)
    count, absolute = op.rounding()
    for u in (U32, U64):
        error, once = op.execution_error(u).relative, rounding.gamma(1, u)
        least = (error + once * (error + op.norm_bound().value)) / rounding.gamma(count, u)
        assert least <= absolute * (1 + 1e-12)
    assert op.norm_bound().value < absolute < 100 * op.norm_bound().value


def test_groups_are_blocks_of_channels():
    _, counts = half_plane((4, 3))
    parts = random(2, len(counts), 6, 2)
    parts[1] *= (counts == 2)[:, None, None]
    symbols = torch.complex(*parts)
    op = SpectralOperator(symbols, (4, 3), 3)
    x = random(2, 6, 4, 3)
    blocks = [SpectralOperator(part, (4, 3)) for part in symbols.split(2, 1)]
    expected = torch.cat([b(part) for b, part in zip(blocks, x.split(2, 1), strict=True)], 1)
    torch.testing.assert_close(op(x), expected)
    torch.testing.assert_close(op.adjoint(x), op.dense().T.matmul(x.flatten(1).T).T.view_as(x))
    torch.testing.assert_close(op.singular_values(), torch.linalg.svdvals(op.dense()))
    assert op.norm_bound().value == pytest.approx(max(b.norm_bound().value for b in blocks))
    with pytest.raises(ValueError, match="`groups` must divide the outputs; got 4, 6 outputs"):
        SpectralOperator(symbols, (4, 3), 4)


def test_a_library_transform_has_no_proven_error():
    op = SpectralOperator(torch.ones(34, 1, 1) + 0j, (66,))
    torch.testing.assert_close(op(random(2, 1, 66)), random(2, 1, 66))
    assert op.execution_error().relative == math.inf
    assert rounding.gamma(op.fan_in, U64) == math.inf
    bound = ComposedOperator(op, op).norm_bound()
    assert bound.proof == "product of 2 norms"
    assert bound.value == pytest.approx(1, rel=1e-8)


# Spectral operators


@pytest.mark.parametrize(("size", "taps"), [((6,), (3,)), ((4, 5), (2, 3)), ((3, 3), (5, 5))])
def test_symbols_of_a_kernel_give_its_circular_convolution(size, taps):
    kernel = random(2, 3, *taps)
    pad = Padding("circular", right=tuple(k - 1 for k in taps))
    conv = ConvOperator(kernel, size, padding=pad)
    (values, counts), *_ = symbols(kernel, size)
    values.imag[counts == 1] = 0  # up to rounding they are real
    op = SpectralOperator(values, size)
    x = random(2, 3, *size)
    torch.testing.assert_close(op(x), conv(x), rtol=1e-11, atol=1e-11)
    assert op.norm_bound().value == pytest.approx(conv.norm_bound().value, rel=1e-9)
    torch.testing.assert_close(op.singular_values(), conv.singular_values())


def test_norm_of_symbols_is_the_largest_wherever_it_is(monkeypatch):
    monkeypatch.setattr(spectral, "_CHUNK_BYTES", 1)  # a frequency at a time
    _, counts = half_plane((4, 3))
    for place, (m, n) in itertools.product(range(len(counts)), [(2, 3), (3, 2), (1, 1)]):
        values = torch.complex(random(len(counts), m, n), random(len(counts), m, n, seed=1))
        values.imag[counts == 1] = 0
        values = values / torch.linalg.matrix_norm(values, 2)[:, None, None]
        values[place] *= 3e-200
        values[values.abs() < 1e-100] *= 1e200
        bound = SpectralOperator(values, (4, 3)).norm_bound().value
        assert 3 * (1 - 1e-14) <= bound <= 3 * (1 + 1e-9)
        assert SpectralOperator(values * 1e-200, (4, 3)).norm_bound().value == pytest.approx(3e-200)


def test_norm_of_symbols_covers_the_rounding_of_their_squares(monkeypatch):
    values = torch.complex(
        random(2, 2, 3), random(2, 2, 3, seed=1) * torch.tensor([0, 1])[:, None, None]
    )
    op = SpectralOperator(values, (3,))
    before = op.norm_bound().value
    monkeypatch.setattr(spectral, "gamma", lambda n, u: 0.25 * (n == 6))
    most = values.abs().square().sum((1, 2)).max().item()
    assert op.norm_bound().value >= (before**2 + 0.5 * most) ** 0.5 * (1 - 1e-9)


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        (torch.ones(3, 1, 1), (4,), "complex, of 3 dimensions; got torch.float32"),
        (torch.ones(3, 1) + 0j, (4,), "3 dimensions"),
        (torch.ones(4, 1, 1) + 0j, (4,), "the 3 frequencies of the half plane of .4,.; got 4"),
        (torch.full((3, 1, 1), 1j), (4,), "real at the frequencies that are their own mirrors"),
        (torch.full((3, 1, 1), complex(math.nan)), (4,), "`symbols` must be finite"),
        (torch.ones(1, 1, 1) + 0j, (), "`size` must be at least one number >= 1"),
    ],
)
def test_symbols_that_make_no_real_operator_are_refused(values, size, message):
    with pytest.raises(ValueError, match=message):
        SpectralOperator(values, size)


# Series


def test_radii_of_the_exponential_are_below_its_first_root():
    """|S_m(i t)|^2 - 1 has no root in (0, r^2) as a polynomial in t^2, and is negative (Sturm)."""
    for degree, radius in series.RADII.items():
        cos = [Fraction((-1) ** j, math.factorial(2 * j)) for j in range(degree // 2 + 1)]
        sin = [Fraction((-1) ** j, math.factorial(2 * j + 1)) for j in range((degree + 1) // 2)]
        excess = added(times(cos, cos), [Fraction(0), *times(sin, sin)], [Fraction(-1)])
        while excess[0] == 0:  # the roots at 0
            excess = excess[1:]
        square = Fraction(radius) ** 2
        assert value(excess, square) < 0
        assert value(excess, Fraction(0)) < 0
        assert sturm(excess, Fraction(0)) - sturm(excess, square) == 0
        above = Fraction(radius + 2e-4) ** 2  # and it is not much too small
        assert sturm(excess, Fraction(0)) - sturm(excess, above) == 1


def times(a, b):
    product = [Fraction(0)] * (len(a) + len(b) - 1)
    for (i, x), (j, y) in itertools.product(enumerate(a), enumerate(b)):
        product[i + j] += x * y
    return product


def added(*terms):
    return [sum(column) for column in itertools.zip_longest(*terms, fillvalue=Fraction(0))]


def value(polynomial, x):
    return sum(c * x**j for j, c in enumerate(polynomial))


def sturm(polynomial, x):
    """Changes of sign in the Sturm sequence at x."""
    sequence = [polynomial, [j * c for j, c in enumerate(polynomial)][1:]]
    while len(sequence[-1]) > 1:
        rest, divisor = list(sequence[-2]), sequence[-1]
        while len(rest) >= len(divisor):
            factor = rest[-1] / divisor[-1]
            shift = [Fraction(0)] * (len(rest) - len(divisor))
            rest = added(rest, [-factor * c for c in (*shift, *divisor)])[:-1]
        sequence.append([-c for c in rest])
    signs = [v > 0 for v in (value(p, x) for p in sequence) if v != 0]
    return sum(a != b for a, b in itertools.pairwise(signs))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("degree", series.RADII)
def test_exponentials_within_their_radius_have_norm_one(mode, degree):
    for seed, options in enumerate(({}, {"dilation": (2, 1)}, {"groups": 2})):
        op = skew(2, 3, 3, norm=series.RADII[degree], mode=mode, seed=seed, **options)
        power = SeriesOperator.exponential(op, degree)
        bound = power.norm_bound()
        assert (bound.value, bound.proof.split(" of a")[0]) == (
            1.0,
            f"exponential of degree {degree}",
        )
        assert power.singular_values()[0] <= 1 + 1e-12
    small = SeriesOperator.exponential(skew(2, 3, 3, norm=0.5, mode=mode), 12)
    assert small.singular_values().min() >= 1 - 1e-12


@pytest.mark.parametrize("degree", [1, 2, 5, 6, 9, 10, 3, 8])
def test_other_exponentials_are_bounded_by_their_remainder(degree, monkeypatch):
    monkeypatch.setattr(operator, "DENSE_PROOF", 0)
    radius = series.RADII.get(degree, 1.0)
    op = skew(2, 3, 3, norm=radius * 1.01)
    power = SeriesOperator.exponential(op, degree)
    bound, norm = power.norm_bound(), power.singular_values()[0].item()
    assert "remainder" in bound.proof
    rest = op.norm_bound().value ** (degree + 1) / math.factorial(degree + 1)
    assert bound.value == pytest.approx(1 + rest, rel=1e-12)
    assert max(norm * (1 - 1e-13), 1.0) <= bound.value


def test_only_the_exponential_of_a_skew_operator_has_norm_one(monkeypatch):
    monkeypatch.setattr(operator, "DENSE_PROOF", 0)
    op = skew(2, 3, norm=1.0)
    other = SeriesOperator(op, [Fraction(1, 1), Fraction(1, 1), Fraction(1, 2), Fraction(1, 5)])
    turned = ConvOperator(op.kernel.abs(), op.input_size, padding=op.padding)
    symmetric = SeriesOperator(turned, SeriesOperator.exponential(op, 3).coefficients)
    for power in (other, symmetric):
        rho = power.op.norm_bound().value
        terms = (float(abs(c)) * rho**j for j, c in enumerate(power.coefficients))
        assert power.norm_bound().value == pytest.approx(sum(terms), rel=1e-12)
        assert power.norm_bound().value >= power.singular_values()[0] * (1 - 1e-13)
    same = SeriesOperator(op, SeriesOperator.exponential(op, 3).coefficients)
    assert same.norm_bound().value == 1.0


def test_operators_that_are_not_exactly_skew_are_refused():
    op = skew(2, 3, 3)
    kernel, size, pad = op.kernel, op.input_size, op.padding
    off = kernel.clone()
    off[0, 1, 0, 2] = torch.nextafter(off[0, 1, 0, 2], torch.tensor(9.0).double())
    shifted = Padding("circular", (0, 1), (2, 1))
    for case, message in (
        (ConvOperator(off, size, padding=pad), "not minus its flipped transpose"),
        (ConvOperator(kernel, size, (1, 2), padding=pad), "outputs of the shape of its inputs"),
        (ConvOperator(kernel, size, padding=shifted), "instead of 'zeros' or 'circular'"),
        (ConvOperator(kernel, size, padding=Padding("reflect", (1, 1), (1, 1))), "instead of"),
        (
            ConvOperator(kernel, size, padding=Padding("zeros", (1, 1), (1, 1), (1, 0))),
            "instead of",
        ),
        (
            ConvOperator(kernel[:, :, :2], size, padding=Padding("zeros", (0, 1), (1, 1))),
            "even kernel",
        ),
        (ConvOperator(kernel[:, :1], size, padding=pad), "not minus its flipped transpose"),
        (MatrixOperator(torch.zeros(2, 2)), "a MatrixOperator"),
    ):
        with pytest.raises(ValueError, match=message):
            SeriesOperator.exponential(case, 4)
    with pytest.raises(ValueError, match="`degree` must be >= 1; got 0"):
        SeriesOperator.exponential(op, 0)


# Settings of torch


@pytest.mark.parametrize("size", [(12, 12), pytest.param((40, 40), marks=pytest.mark.slow)])
def test_default_device_and_dtype_do_not_matter(size):
    def values():
        op = ConvOperator(kernel, size, padding=Padding("zeros", (1, 1), (1, 1)))
        torus = ConvOperator(kernel, (3, 4), padding=Padding("circular", (1, 1), (1, 1)))
        step = SpectralOperator(torch.complex(kernel[..., 0, :].permute(2, 0, 1), 0 * part), (4,))
        bounds = [op.norm_bound(), op.norm_bound(tight=True), step.norm_bound()]
        return *bounds, op.abs_norm_bound(), torus.singular_values()[0].item(), torus.dense().sum()

    kernel = random(20, 24, 3, 3)
    part = torch.zeros(3, 20, 24, dtype=torch.float64)
    before = values()
    try:
        for device, dtype in (("meta", torch.float32), ("cpu", torch.float64)):
            torch.set_default_device(device)  # as a GPU: other than the kernel's
            torch.set_default_dtype(dtype)
            twiddles._table.cache_clear()
            assert values() == before
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


# Bad parts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatrixOperator(torch.ones(3)), "`weight` must have 2 dimensions; got 1"),
        (lambda: MatrixOperator(torch.ones(1, 1).long()), "floating point"),
        (lambda: ComposedOperator(), "`ops` must be at least one operator"),
        (
            lambda: ComposedOperator(wide(), wide()),
            r"outputs of shape \(2,\) for inputs of shape \(3,\)",
        ),
        (lambda: StackedOperator(()), "`ops` must take inputs of one shape"),
        (lambda: StackedOperator((wide(), number(1.0))), r"one shape; got \[\(1,\), \(3,\)\]"),
        (lambda: StackedOperator((wide(),), 1), "`axis` must be 0 to 0"),
        (lambda: BlockOperator(()), "`ops` must be at least one operator"),
        (lambda: BlockOperator((image(4), image(5))), "differ along axis 0 only"),
        (lambda: SeriesOperator(wide(), (1.0,)), "outputs of the shape of its inputs"),
        (lambda: SeriesOperator(number(1.0), ()), "`coefficients` must be finite numbers"),
        (lambda: SeriesOperator(number(1.0), (1.0, math.nan)), "`coefficients` must be finite"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def wide():
    return MatrixOperator(torch.ones(2, 3))


def image(size):
    return ConvOperator(torch.ones(1, 1, 1), (size,))
