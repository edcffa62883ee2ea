r"""Scales, lengths and means with proven rounding, on which both sides of an estimate rest.

Points are divided by a power of two, so that their largest extent along an axis lies in (1/2, 1].
Then no square overflows, and the estimate of points times :math:`2^k` is that of the points, times
:math:`2^k`.
"""

import math
from fractions import Fraction

import torch
from jaxtyping import Float64
from torch import Tensor

from taut.linalg.rounding import U64, gamma

UNDERFLOW = 2.0**-1060
"""More than a length of scaled points loses to underflow."""

_LARGEST = 900  # squares of coordinates may overflow, squares of their differences may not
_NUMBERS = 1 << 22  # of a block


def common_exponent(p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"]) -> int:
    """The k for which the points over 2^k have a largest extent in (1/2, 1]; 0 for zeros alone.

    >>> x = torch.tensor([[0.0], [8.0]], dtype=torch.float64)
    >>> common_exponent(x, x), common_exponent(x, x + 1)
    (3, 4)
    """
    low, high = torch.minimum(p.amin(0), q.amin(0)), torch.maximum(p.amax(0), q.amax(0))
    extent, largest = float((high - low).max()), float(torch.maximum(-low, high).max())
    if largest == 0.0:
        return 0
    by_extent = 1025 if math.isinf(extent) else exponent_of(extent or largest)
    return max(by_extent, exponent_of(largest) - _LARGEST)


def exponent_of(value: float) -> int:
    """The k with 2^(k-1) < value <= 2^k."""
    mantissa, exponent = math.frexp(value)
    return exponent - (mantissa == 0.5)


def rescaled(values: Float64[Tensor, "*shape"], exponent: int) -> Float64[Tensor, "*shape"]:
    """The values times 2^exponent; in two factors, since one alone may overflow."""
    half = exponent // 2
    return values * 2.0**half * 2.0 ** (exponent - half)


def split_lengths(
    differences: Float64[Tensor, "k d"],
) -> tuple[Float64[Tensor, "k"], Float64[Tensor, "k"]]:
    """The l2 norms as products of two factors, the largest coordinate and a ratio of at least 1.

    Each product, in exact arithmetic, is within `length_error` of the norm, relative to it, however
    small the norm is: only ratios are squared.

    >>> split_lengths(torch.tensor([[3e-300, 4e-300]], dtype=torch.float64))
    (tensor([4.0000e-300], dtype=torch.float64), tensor([1.2500], dtype=torch.float64))
    """
    largest = differences.abs().amax(1)
    ratios = differences / torch.where(largest > 0, largest, 1.0)[:, None]
    return largest, ratios.square().sum(1).sqrt()


def length_error(dimension: int) -> float:
    """Relative error of `split_lengths` of differences that were rounded once.

    A coordinate passes 2 roundings, its square 5, the sum of d squares d + 4: half as many, and 1
    for the root, and 2 to spare for underflow and higher orders.
    """
    return gamma(dimension // 2 + 6, U64)


def exact_mean(
    values: Float64[Tensor, "n"], weights: Float64[Tensor, "n"] | None = None
) -> Fraction:
    """The mean of finite values without rounding, weighted if weights are given."""
    terms = list(map(Fraction, values.tolist()))
    if weights is None:
        return sum(terms, Fraction(0)) / len(terms)
    shares = list(map(Fraction, weights.tolist()))
    products = (share * term for share, term in zip(shares, terms, strict=True))
    return sum(products, Fraction(0)) / sum(shares)


def largest_excess(
    points: tuple[Float64[Tensor, "n d"], Float64[Tensor, "m d"]],
    scores: tuple[Float64[Tensor, "n"], Float64[Tensor, "m"]],
    bound: float,
) -> Fraction:
    r"""How far the scores of two samples miss dual feasibility, rounded up; at least 0.

    That is the largest of :math:`s_i - t_j - L \lVert x_i - y_j \rVert`. With it subtracted, weak
    duality makes the difference of the mean scores over L a lower bound of the distance of the
    samples, however the scores came about and were rounded.

    >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> round(float(largest_excess((x, x), (3 * x[:, 0], 3 * x[:, 0]), 1.0)), 9)
    2.0
    """
    (x, y), (s, t) = points, scores
    x_moved, y_moved = x - y[0], y - y[0]
    x_squares, y_squares = x_moved.square().sum(1), y_moved.square().sum(1)
    # |a|^2 + |b|^2 - 2 ab in d-term sums is off by less than this share of |a|^2 + |b|^2.
    share = 4 * gamma(x.shape[1] + 8, U64)
    margin = 2.0**-48 * float(s.abs().max() + t.abs().max())
    worst, rows, pairs = 0.0, max(1, _NUMBERS // len(y)), max(1, _NUMBERS // x.shape[1])
    for first in range(0, len(x), rows):
        block = slice(first, first + rows)
        reach = x_squares[block, None] + y_squares  # (rows, m)
        squares = reach - 2 * x_moved[block] @ y_moved.mT - share * reach - 2.0**-1000
        floor = (squares.clamp_min(0).sqrt() - 2.0**-48 * reach.sqrt()).clamp_min(0)
        open_pairs = s[block, None] - t - bound * floor > worst - margin
        i, j = open_pairs.nonzero(as_tuple=True)
        for a, b in zip((i + first).split(pairs), j.split(pairs), strict=True):
            worst = max(worst, _excess(x[a] - y[b], s[a] - t[b], bound)) if len(a) else worst
    return Fraction(worst) * Fraction(1 + 2.0**-50) + Fraction(UNDERFLOW) * (1 + Fraction(bound))


def _excess(away: Tensor, rise: Tensor, bound: float) -> float:
    """The largest excess of pairs, to a relative 2^-50 and `UNDERFLOW`."""
    units, ratios = split_lengths(away)
    run = bound * units * ratios * (1 - length_error(away.shape[1]) - 2.0**-50)
    return float((rise * (1 + 2.0**-50) - run).max())
