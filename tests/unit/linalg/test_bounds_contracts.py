"""Each term of a bound covers the error it stands for: exact rationals, and kernels made for it."""

import dataclasses
import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import mpmath
import pytest
import torch

from taut.linalg import bounds, cholesky, gram, rounding, size_free, twiddles
from taut.linalg.convolution import ConvOperator
from taut.linalg.padding import Padding

CIRCULAR = Padding("circular", (0,), (1,))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(tensor):
    """A matrix as nested lists of Fractions."""
    return [[Fraction(value) for value in row] for row in tensor.tolist()]


def product(a, b):
    """a b^T in Fractions."""
    return [[sum(x * y for x, y in zip(r, s, strict=True)) for s in b] for r in a]


def frobenius_square(a):
    return sum(x * x for row in a for x in row)


def test_outward_is_above_the_exact_value():
    values = random(200, seed=1).abs()
    for n in (0, 1, 5, 1000):
        raised = rounding.outward(values, n).tolist()
        share = n * Fraction(rounding.U64)
        for value, result in zip(values.tolist(), raised, strict=True):
            assert Fraction(result) >= Fraction(value) / (1 - share)


def test_cosines_are_within_their_error():
    with mpmath.workdps(60):
        for k, n in [(0, 1), (1, 3), (5, 12), (7, 31), (200, 999), *((k, 24) for k in range(24))]:
            angle = 2 * mpmath.pi * k / n
            for value, true in zip(
                twiddles.cosine(k, n), (mpmath.cos(angle), mpmath.sin(angle)), strict=True
            ):
                assert abs(value - true * 2**128) <= 2**18
            below = twiddles.down_cosine(k, n)
            below = mpmath.mpf(below.numerator) / below.denominator
            assert below <= mpmath.cos(angle) <= below + mpmath.mpf(2) ** -100


def test_twiddles_are_within_their_error():
    shifts = tuple(itertools.product(range(-2, 3), repeat=3))
    torus = (5, 7, 6)
    worst = 0
    with mpmath.workdps(40):
        rows = [torch.cat(part) for part in zip(*twiddles.twiddles(torus, shifts, 1), strict=True)]
        grid, _ = twiddles.half_plane(torus)
        for f in range(0, len(grid), 7):
            for d, shift in enumerate(shifts):
                turn = sum(
                    mpmath.mpf(int(j) * s) / n
                    for j, s, n in zip(grid[f], shift, torus, strict=True)
                )
                true = mpmath.expjpi(2 * turn)
                error = abs(mpmath.mpc(rows[0][f, d].item(), rows[1][f, d].item()) - true)
                worst = max(worst, float(error))
    assert 0 < worst <= twiddles.TWIDDLE_ERROR


def test_the_half_plane_has_one_of_each_pair_of_frequencies():
    for torus in [(1,), (5,), (6,), (4, 3), (2, 2), (3, 2, 4)]:
        grid, counts = twiddles.half_plane(torus)
        found = {tuple(j) for j in grid.tolist()}
        mirrored = {tuple(-a % n for a, n in zip(j, torus, strict=True)) for j in found}
        assert found | mirrored == set(itertools.product(*map(range, torus)))
        assert counts.sum() == math.prod(torus)


def test_gram_kernel_is_within_its_error():
    # Each square is lost when it is added to 1: half of the roundoff that can be.
    row = torch.full((1, 1, 1000), 2.0**-27, dtype=torch.float64)
    row[0, 0, 0] = 1
    result = gram.gram_kernel(row)
    missed = 1 + Fraction(999, 2**54) - Fraction(result.grams.item())
    assert 0 < missed <= Fraction(result.error.item())
    for seed in range(20):  # at frequency 0 all errors add
        kernel = random(1, 2, 3, 2, 2, seed=seed)
        result = gram.gram_kernel(kernel)
        taps = kernel[0].flatten(2).tolist()
        total = [[sum(map(Fraction, tap), Fraction(0)) for tap in row] for row in taps]
        matrices = [exact(matrix) for matrix in result.grams[0]]
        true = product(total, total)
        for i, j in itertools.product(range(2), repeat=2):
            found = matrices[0][i][j] + sum(m[i][j] + m[j][i] for m in matrices[1:])
            assert abs(found - true[i][j]) <= Fraction(result.error.item())
        norm = torch.linalg.matrix_norm(kernel[0].abs().sum((2, 3)), 2).item()
        assert result.largest.item() >= norm**2 * (1 - 1e-14)
        assert result.error.item() >= 12 * 2.0**-53 * norm**2  # gamma of n k^2 products


def test_symbols_are_within_their_error():
    torus = (5, 3)
    result = gram.gram_kernel(random(1, 2, 2, 2, 2)).shifted(torch.tensor([0.1]).double())
    allowed = result.evaluation_error().item()
    pieces = [torch.cat(parts, 1)[0] for parts in zip(*result.symbols(torus), strict=True)]
    grid, _ = twiddles.half_plane(torus)
    worst = 0.0
    with mpmath.workdps(40):
        for f, j in enumerate(grid.tolist()):
            true = mpmath.zeros(2, 2)
            for shift, matrix in zip(result.shifts, result.grams[0].tolist(), strict=True):
                turn = sum(mpmath.mpf(a * s) / n for a, s, n in zip(j, shift, torus, strict=True))
                term = mpmath.matrix(matrix) * mpmath.expjpi(2 * turn)
                true += term if not any(shift) else term + term.transpose_conj()
            computed = mpmath.matrix(torch.complex(*(p[f] for p in pieces)).tolist())
            worst = max(worst, float(math.sqrt(sum(abs(x) ** 2 for x in computed - true))))
    assert 0 < worst <= allowed


@pytest.mark.parametrize(("degrees", "grid"), [((2, 2), (8, 8)), ((1,), (4,)), ((3, 0), (12, 1))])
def test_riesz_factor_makes_up_for_peaks_between_grid_points(degrees, grid):
    # cos(k (t - pi / N)) is 1 in the middle of two grid points and cos(k pi / N) at them.
    with mpmath.workdps(40):
        seen = mpmath.mpf(1)
        for k, n in zip(degrees, grid, strict=True):
            seen *= max(mpmath.cos(k * (2 * j - 1) * mpmath.pi / n) for j in range(n))
        assert 1 <= size_free.riesz_factor(degrees, grid) * seen <= 1 + 1e-12


@pytest.mark.parametrize("turn", [0, 1 / 8, 1 / 4, 3 / 8])
@pytest.mark.parametrize("size", [1e-5, 1e-3])
def test_defects_that_peak_between_grid_points_or_are_imaginary(turn, size):
    # K = I + s R e^{iw} with a rotation R: the defect is 2 s cos(w +- turn), its peak anywhere.
    c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    kernel = torch.zeros(2, 2, 2, dtype=torch.float64)
    kernel[..., 0] = torch.eye(2)
    kernel[..., 1] = size * torch.tensor([[c, -s], [s, c]])
    square, _ = size_free.defect_bound(gram.gram_kernel(kernel[None]))
    assert (1 + size) ** 2 * (1 - 1e-15) <= square.item() <= 1 + 8 * size
    op = ConvOperator(kernel, (240,), padding=CIRCULAR)
    assert (1 + size) * (1 - 1e-14) <= bounds.conv_norm_bound(op).value


def test_spectral_norms_of_defects_are_not_below_the_exact_ones():
    for seed in range(20):
        real, imag = random(1, 1, 3, 3, seed=seed), random(1, 1, 3, 3, seed=seed + 50)
        norm = torch.linalg.matrix_norm(torch.complex(real, imag), 2).item()
        assert norm * (1 - 1e-14) <= size_free._spectral(real, imag).item() <= norm * 3**0.25
    one = 1 + 2.0**-30  # its fourth power is rounded down
    single = size_free._spectral(torch.tensor([[[[one]]]], dtype=torch.float64), None)
    assert Fraction(single.item()) >= Fraction(one)


def test_spectral_norms_of_defects_cover_the_rounding_of_products(monkeypatch):
    real, imag = random(1, 1, 3, 3), random(1, 1, 3, 3, seed=1)
    before = size_free._spectral(real, imag).item()
    monkeypatch.setattr(size_free, "gamma", lambda n, u: 0.25)
    most = (before**2 + 0.5 * (real.square().sum() + imag.square().sum()).item()) ** 0.5
    assert most * (1 - 1e-13) <= size_free._spectral(real, imag).item()


def witness(factor):
    return lambda _: SimpleNamespace(L=factor[None])


def test_residual_covers_any_witness(monkeypatch):
    for seed in range(30):
        parts = random(4, 3, 3, seed=seed) * 10.0 ** (-seed % 9)
        factor = torch.complex(parts[0], parts[1])
        monkeypatch.setattr(torch.linalg, "cholesky_ex", witness(factor))
        bound = cholesky.residual_bound(parts[2][None], parts[3][None], 1.5).item()
        re, im, h_re, h_im = map(exact, parts)
        first, second = product(re, re), product(im, im)
        cross, other = product(im, re), product(re, im)
        square = Fraction(0)
        for i, j in itertools.product(range(3), repeat=2):
            square += (Fraction(1.5) * (i == j) - h_re[i][j] - first[i][j] - second[i][j]) ** 2
            square += (h_im[i][j] + cross[i][j] - other[i][j]) ** 2
        assert square <= Fraction(bound) ** 2 <= square * (1 + Fraction(1, 10**10))


def test_residual_covers_what_rounding_hides(monkeypatch):
    side = 1 + 2.0**-30  # side^2 = 1 + 2^-29 + 2^-60 is rounded, and the computed residual is 0
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", witness(zero[0] + side))
    bound = cholesky.residual_bound(zero, None, side * side).item()
    assert Fraction(bound) >= Fraction(side) ** 2 - Fraction(side * side) > 0
    monkeypatch.setattr(torch.linalg, "cholesky_ex", witness(torch.complex(zero, zero + side)[0]))
    bound = cholesky.residual_bound(zero, zero, side * side).item()
    assert Fraction(bound) >= Fraction(side) ** 2 - Fraction(side * side) > 0


def test_residual_covers_what_is_lost_in_its_own_norm(monkeypatch):
    # With no other slack: each square is lost when it is added to 1.
    matrix = torch.full((1, 64, 64), 2.0**-27, dtype=torch.float64)
    matrix[0, 0, 0] = 1
    monkeypatch.setattr(torch.linalg, "cholesky_ex", witness(0 * matrix[0]))
    monkeypatch.setattr(cholesky, "gamma", lambda n, u: 0.0)
    bound = cholesky.residual_bound(matrix, None, 0.0).item()
    assert Fraction(bound) ** 2 >= 1 + Fraction(4095, 2**54)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", witness(math.nan * matrix[0]))
    assert cholesky.residual_bound(matrix, None, 0.0).item() == math.inf


@pytest.mark.parametrize("error", ["gram", "evaluation"])
@pytest.mark.parametrize("near", [True, False])
def test_bounds_cover_all_matrices_within_the_error(monkeypatch, error, near):
    kernel = torch.eye(2, dtype=torch.float64)[None, ..., None] * torch.tensor([1.0, 1e-3])
    kernel = kernel if near else kernel * torch.tensor([[[[1.0]], [[0.5]]]])
    result = gram.gram_kernel(kernel)
    more = torch.tensor([0.1], dtype=torch.float64)
    if error == "gram":
        result = dataclasses.replace(result, error=more, largest=100 * more)
    else:
        result = dataclasses.replace(result, largest=100 * more)
        monkeypatch.setattr(gram.GramKernel, "evaluation_error", lambda self: more)
    least = (1 + float(torch.tensor(1e-3))) ** 2 + 0.1
    assert size_free.defect_bound(result)[0].item() >= least * (1 - 1e-14)
    assert cholesky.torus_bound(result, (4,)) >= least * (1 - 1e-14)


@pytest.mark.parametrize("wrong", ["zero", "half", "nan", "inf"])
def test_a_wrong_witness_never_makes_a_bound_too_small(monkeypatch, wrong):
    value = {"zero": 0.0, "half": 0.5, "nan": math.nan, "inf": math.inf}[wrong]
    right = torch.linalg.cholesky_ex

    def wrong_factor(matrix):
        return SimpleNamespace(L=right(matrix).L * value)

    op = ConvOperator(random(2, 3, 3), (6,), padding=Padding("circular", (1,), (1,)))
    norm = bounds.conv_norm_bound(op).value
    monkeypatch.setattr(torch.linalg, "cholesky_ex", wrong_factor)
    assert norm * (1 - 1e-9) <= bounds.conv_norm_bound(op).value <= 10 * norm


@pytest.mark.parametrize("scale", [0.01, 0.9, 1.1])
def test_a_wrong_estimate_never_makes_a_bound_too_small(monkeypatch, scale):
    op = ConvOperator(random(2, 3, 3), (6,), padding=Padding("circular", (1,), (1,)))
    norm = bounds.conv_norm_bound(op).value
    right = cholesky._ritz_values
    monkeypatch.setattr(twiddles, "_CHUNK_BYTES", 1)  # a frequency at a time
    monkeypatch.setattr(cholesky, "_ritz_values", lambda *args: right(*args) * scale)
    monkeypatch.setattr(cholesky, "_top", lambda matrices: right(matrices, 9).max().item() * scale)
    assert norm * (1 - 1e-9) <= bounds.conv_norm_bound(op).value <= 10 * norm


def test_overflow_and_what_is_not_finite_are_refused():
    ones = torch.ones(4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="overflow"):
        bounds.conv_norm_bound(ConvOperator(1e308 * ones, ()))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="finite"):
            ConvOperator(ones * bad, ())


def test_rounding_of_a_single_number():
    for seed in range(100):
        (value,) = random(1, seed=seed).tolist()
        op = ConvOperator(torch.tensor([[value]], dtype=torch.float64), ())
        bound = bounds.conv_norm_bound(op).value
        assert abs(value) <= bound <= abs(value) * (1 + 1e-14)


def test_rounding_of_a_long_row():
    # float64 squares of these are all rounded; the exact norm is rational arithmetic.
    for seed in range(20):
        row = random(1, 500, seed=seed)
        square = frobenius_square(exact(row))
        bound = Fraction(bounds.conv_norm_bound(ConvOperator(row, ())).value)
        assert square <= bound**2 <= square * (1 + Fraction(1, 10**11))
