"""Constants of single layers and of pairs of logits, against exact rationals."""

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import nn

from taut.program import _pairwise, lipschitz_bound
from taut.program._pairwise import pairwise_constants


def exponential(x, terms=60):
    """Rational below and above exp(x), for |x| <= 4."""
    term = total = Fraction(1)
    for k in range(1, terms):
        term *= x / k
        total += term
    rest = abs(term)  # the terms after it shrink faster than by half each
    return total - rest, total + rest


def slope(module):
    return Fraction(lipschitz_bound(module, (2,)).value)


def test_slope_of_selu():
    # 17 digits of torch's own constants, alpha and scale.
    alpha, scale = Fraction("1.67326324235437728481"), Fraction("1.05070098735548049342")
    assert alpha * scale <= slope(nn.SELU()) <= alpha * scale * (1 + Fraction(1, 10**7))


def test_slope_of_silu():
    # x tanh(x / 2) grows with x > 0 and is 2 where the slope is largest: 1/2 + x/4.
    x = 4 * (slope(nn.SiLU()) - Fraction(1, 2))
    low, high = exponential(x)
    assert x * (low - 1) / (high + 1) >= 2
    nearer = x * (1 - Fraction(1, 10**5))
    low, high = exponential(nearer)
    assert nearer * (high - 1) / (low + 1) < 2  # not much too large either


def test_slope_of_gelu():
    # P(sqrt 2) + sqrt 2 p(sqrt 2) = (1 + erf(1)) / 2 + exp(-1) / sqrt(pi)
    root_pi = Fraction("1.7724538509055160272"), Fraction("1.7724538509055160273")
    series, term = Fraction(0), Fraction(1)
    for n in range(25):
        series += term / (2 * n + 1)
        term *= Fraction(-1, n + 1)
    pairs = zip((-1, 1), root_pi, strict=True)
    erf = [2 * (series + sign * Fraction(1, 10**20)) / root for sign, root in pairs]
    low, high = exponential(Fraction(-1))
    least = (1 + erf[0]) / 2 + low / root_pi[1]
    most = (1 + erf[1]) / 2 + high / root_pi[0]
    assert most <= slope(nn.GELU()) <= least * (1 + Fraction(1, 10**5))


@pytest.mark.parametrize(
    ("module", "where", "function"),
    [
        (nn.Mish(), 1.49, lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x)))),
        (nn.GELU("tanh"), 1.42, lambda x: x * (1 + mpmath.tanh(_cubic(x))) / 2),
        (nn.SiLU(), 2.4, lambda x: x / (1 + mpmath.exp(-x))),
        (nn.SELU(), -1e-9, lambda x: _selu(x)),
    ],
    ids=["mish", "gelu tanh", "silu", "selu"],
)
def test_slopes_in_the_last_digit(module, where, function):
    """Slopes on a grid in 30 digits, and at their largest point: no more than the last digit."""
    with mpmath.workdps(30):
        grid = [mpmath.diff(function, mpmath.mpf(i) / 16) for i in range(-160, 160)]
        nearby = [mpmath.diff(function, where + mpmath.mpf(i) / 2000) for i in range(-20, 21)]
        bound = mpmath.mpf(float(slope(module)))
        assert max(map(abs, grid)) <= bound
        assert bound - mpmath.mpf("1e-5") <= max(nearby) <= bound


def _cubic(x):
    return mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)


def _selu(x):
    alpha, scale = "1.67326324235437728481", "1.05070098735548049342"
    below = mpmath.mpf(alpha) * mpmath.expm1(x)
    return mpmath.mpf(scale) * (x if x > 0 else below)


@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
def test_average_pool_is_not_below_the_exact_one(kernel):
    # Windows that do not overlap: the norm is 1 / kernel exactly.
    bound = slope_of(nn.AvgPool2d(kernel), (1, 4 * kernel, 4 * kernel))
    assert Fraction(1, kernel) <= bound <= Fraction(1, kernel) * (1 + Fraction(1, 10**8))
    other = slope_of(nn.AdaptiveAvgPool2d(2), (1, 2 * kernel, 2 * kernel))
    assert Fraction(1, kernel) <= other <= Fraction(1, kernel) * (1 + Fraction(1, 10**8))


def slope_of(module, shape):
    return Fraction(lipschitz_bound(module, shape).value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_is_not_below_the_exact_scale(dtype):
    torch.manual_seed(0)
    for _ in range(50):
        layer = nn.BatchNorm1d(3, dtype=dtype).eval()
        variance = layer.get_buffer("running_var").uniform_(1e-6, 3)
        with torch.no_grad():
            layer.weight.normal_()
        eps = Fraction(layer.eps)
        squares = [
            Fraction(w) ** 2 / (Fraction(v) + eps)
            for w, v in zip(layer.weight.tolist(), variance.tolist(), strict=True)
        ]
        bound = slope_of(layer, (3,)) ** 2
        assert max(squares) <= bound <= max(squares) * (1 + Fraction(1, 10**5))


def test_per_channel_deviations_count_by_the_smallest():
    # A division by deviations is as steep as the smallest of them makes it, not as their mean.
    layer = nn.BatchNorm2d(3, affine=False, eps=1e-30).double().eval()
    variance = layer.get_buffer("running_var")
    variance.copy_(torch.tensor([0.2, 0.3, 0.01], dtype=torch.float64) ** 2)
    assert float(slope_of(layer, (3, 4, 4))) == pytest.approx(100, rel=1e-12)
    assert slope_of(layer, (3, 4, 4)) ** 2 * Fraction(variance[2].item()) >= 1


def test_an_epsilon_in_a_norm_would_hide_small_layers():
    # A bound that divides by |v| + 1e-9 somewhere returns far too little for these.
    for scale in (1e-8, 1e-12, 1e-30):
        layer = nn.Linear(2, 2, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(scale * torch.eye(2, dtype=torch.float64))
        assert (
            Fraction(scale) <= slope_of(layer, (2,)) <= Fraction(scale) * (1 + Fraction(1, 10**9))
        )


@pytest.mark.parametrize(("factor", "mode"), [(2, "nearest"), (3, "nearest-exact")])
def test_upsampling_multiplies_distances(factor, mode):
    assert slope_of(nn.Upsample(scale_factor=factor, mode=mode), (1, 4, 4)) == factor


def exact_constant(a, b, features):
    square = sum((Fraction(x) - Fraction(y)) ** 2 for x, y in zip(a, b, strict=True))
    return square * Fraction(features) ** 2


@pytest.mark.parametrize("scale", [1e-300, 1e-8, 1.0, 1e8, 1e300])
def test_pairwise_constants_are_not_below_the_exact_ones(scale):
    torch.manual_seed(0)
    for size in (1, 2, 7, 40):
        weight = torch.randn(4, size, dtype=torch.float64) * scale
        constants = pairwise_constants(weight, 0.7).tolist()
        for i, j in ((0, 1), (1, 0), (2, 3)):
            exact = exact_constant(weight[i].tolist(), weight[j].tolist(), 0.7)
            assert exact <= Fraction(constants[i][j]) ** 2 <= exact * (1 + Fraction(1, 10**11))


def test_pairwise_constants_of_rows_that_nearly_agree():
    # What a product of matrices would lose altogether.
    row = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = row.clone()
    other[7] += 2.0**-50
    weight = torch.stack([row, other, row, -row])
    constants = pairwise_constants(weight, 3.0)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        exact = exact_constant(weight[i].tolist(), weight[j].tolist(), 3.0)
        assert exact <= Fraction(constants[i, j].item()) ** 2 <= exact * (1 + Fraction(1, 10**11))
    assert constants[0, 2] == constants[1, 1] == 0


def test_pairwise_constants_cover_the_rounding_of_products(monkeypatch):
    # With errors far larger than those of float64 a bound must grow as much, or the pair is close.
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = weight / 4
    monkeypatch.setattr(_pairwise, "gamma", lambda n, u: 0.01 * (n >= 8))
    norms, close = _pairwise._from_products(weight)
    assert close.all()
    squares = (weight[:, None] - weight).square().sum(2)
    sums = weight.square().sum(1)[:, None] + weight.square().sum(1)
    assert (norms.square() * (1 + 1e-14) >= squares + 0.02 * sums).all()


def test_pairwise_constants_count_their_roundings(monkeypatch):
    # An entry: difference (twice, in its square), square, sum of n, and half of that, by the root;
    # the root itself and a sum.
    counted = []
    monkeypatch.setattr(_pairwise, "outward", lambda value, n: counted.append(n) or value)
    _pairwise._from_differences(torch.eye(3, 40, dtype=torch.float64))
    assert min(counted) >= (3 + 39) / 2 + 2


def test_pairwise_constants_at_the_ends_of_the_range():
    tiny = torch.tensor([[5e-324, 0.0], [0.0, 5e-324]], dtype=torch.float64)
    assert Fraction(pairwise_constants(tiny, 1.0)[0, 1].item()) ** 2 >= 2 * Fraction(5e-324) ** 2
    near = torch.tensor([[1e300, 1e-300], [1e300, 0.0]], dtype=torch.float64)
    assert Fraction(pairwise_constants(near, 1.0)[0, 1].item()) >= Fraction(1e-300)
    huge = torch.tensor([[1.7e308], [-1.7e308]], dtype=torch.float64)
    assert pairwise_constants(huge, 1.0)[0, 1] == math.inf
    assert pairwise_constants(huge, 1.0).diagonal().tolist() == [0.0, 0.0]
    small = pairwise_constants(torch.tensor([[1e300], [0.0]], dtype=torch.float64), 1e-320)
    assert Fraction(small[0, 1].item()) >= Fraction(1e300) * Fraction(1e-320)
    assert pairwise_constants(torch.tensor([[math.nan], [0.0]]), 1.0)[0, 1] == math.inf
