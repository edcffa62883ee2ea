"""Exact two-sample tests of scores: p-values that hold for any distribution and any sizes."""

import itertools
import math
import sys

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from taut.wasserstein._exact import rescaled

_BITS = 40  # of a whole score: sums of 2^21 of them are exact in int64
_NUMBERS = 1 << 22  # of a block
_RATES = 200


def p_value(
    p: Float64[Tensor, "n k"],
    q: Float64[Tensor, "m k"],
    *,
    level: float,
    permutations: int,
    generator: torch.Generator,
) -> float:
    r"""How often exchangeable points differ as far as these in one of k mean scores, p above q.

    The statistic is the largest difference of the mean scores of a critic over the standard
    deviation of all n + m of its scores.

    Guarantee: if the n + m rows are exchangeable, P(p-value <= a) <= a for each a, exactly: the
        scores are rounded to whole multiples of a unit, so that sums and ties have no rounding.
        All labellings are tried if there are at most `permutations`, else so many random ones
        and the given one are counted. For a `level` that random ones are too few for: k times
        the least `sign_flip_bound`.

    Reference:
        Phipson and Smyth (2010), *Permutation p-values should never be zero*, section 4, for the
        +1; Westfall and Young (1993) for the largest statistic.

    >>> x, y = (torch.tensor(values).double()[:, None] for values in ([3.0, 4.0], [1.0, 2.0]))
    >>> p_value(x, y, level=0.2, permutations=99, generator=torch.Generator())  # 1 of 6 labellings
    0.16666666666666666
    """
    n, total = len(p), len(p) + len(q)
    few = labellings(n, len(q), permutations) <= permutations
    if not few and _out_of_reach(level, permutations):
        sides = zip(p.unbind(1), q.unbind(1), strict=True)
        return min(1.0, p.shape[1] * min(sign_flip_bound(*s, generator) for s in sides))
    pool = whole_scores(torch.cat([p, q]).cpu())
    weight = 1 / pool.double().std(0, correction=0).clamp_min(1.0)  # of each critic
    least = 2 * n > total  # draw the smaller side: the other one has the rest
    signed, size = (-pool, total - n) if least else (pool, n)
    mean = signed.sum(0).double() * size  # of the sums, times the number of points
    given = signed[n:].sum(0) if least else signed[:n].sum(0)

    def statistic(sums: Int64[Tensor, "*b k"]) -> Float64[Tensor, "*b"]:
        return (weight * (sums.double() * total - mean)).amax(-1)

    if few:
        places = torch.tensor([*itertools.combinations(range(total), size)])
        extreme = statistic(signed[places].sum(1)) >= statistic(given)
        return int(extreme.sum()) / len(places)
    count, left = 1, permutations
    while left:
        rows = min(left, max(1, _NUMBERS // signed.numel()))
        keys = torch.rand(rows, total, generator=generator, dtype=torch.float64, device="cpu")
        sums = signed[keys.topk(size, dim=1).indices].sum(1)
        count, left = count + int((statistic(sums) >= statistic(given)).sum()), left - rows
    return count / (1 + permutations)


def least_p_value(n: int, m: int, *, level: float, permutations: int, critics: int) -> float:
    """The least p-value that `p_value` can give for n and m points.

    >>> least_p_value(2, 2, level=0.05, permutations=999, critics=1)
    0.16666666666666666
    """
    ways = labellings(n, m, permutations)
    if ways <= permutations or not _out_of_reach(level, permutations):
        return 1 / min(ways, permutations + 1)
    return min(1.0, critics * 0.5 ** min(n, m))  # all differences are equal


def _out_of_reach(level: float, permutations: int) -> bool:
    """Whether no share of random labellings and the given one is at most the level."""
    return level * (permutations + 1) < 1


def labellings(n: int, m: int, limit: int) -> int:
    """The number of ways to label n + m points; any number above `limit` if there are more.

    >>> labellings(2, 2, 100), labellings(500, 500, 100) > 100
    (6, True)
    """
    count = 1
    for i in range(1, min(n, m) + 1):
        count = count * (n + m + 1 - i) // i
        if count > limit:
            break
    return count


def whole_scores(scores: Float64[Tensor, "n k"]) -> Int64[Tensor, "n k"]:
    """Scores from the least one of a critic on, in units of about 2^-40 of their range.

    >>> whole_scores(torch.tensor([[1.0], [1.0], [3.0]]).double()).T.tolist() == [[0, 0, 2**40]]
    True
    """
    columns = []
    for moved in (scores - scores.amin(0)).unbind(1):
        _, exponent = math.frexp(float(moved.max()))
        columns.append(rescaled(moved, _BITS + 1 - exponent).round().long())
    return torch.stack(columns, 1)


def sign_flip_bound(
    p: Float64[Tensor, "n"], q: Float64[Tensor, "m"], generator: torch.Generator
) -> float:
    r"""A p-value that can be as small as it has to be, from random pairs of a p and a q.

    Guarantee: if the scores are exchangeable, it is at most a with probability at most a: to swap
        a pair flips the sign of its difference :math:`d_i`, and for random signs
        :math:`P(\sum_i \pm d_i \ge t) \le \inf_r e^{-rt} \prod_i \cosh(r d_i)`.

    >>> ones = torch.ones(30).double()
    >>> sign_flip_bound(ones, 0 * ones, torch.Generator()) < 1e-8
    True
    """
    count = min(len(p), len(q))
    x, y = (
        side.cpu()[torch.randperm(len(side), generator=generator, device="cpu")[:count]]
        for side in (p, q)
    )
    differences = x - y
    largest = float(differences.abs().max())
    if largest == 0.0 or float(differences.sum()) <= 0.0:
        return 1.0
    differences = differences / largest
    rates = torch.logspace(-6, 2, _RATES, dtype=torch.float64, device="cpu")[:, None]
    reach = rates * differences.abs()
    log_cosh = reach + torch.log1p((-2 * reach).exp()) - math.log(2)  # (rates, count)
    exponents = log_cosh.sum(1) - rates[:, 0] * differences.sum()
    bound = math.exp(float(exponents.min()) + 1e-6)  # rounding is far below 1e-6
    return min(1.0, max(bound, sys.float_info.min))  # a p-value is never 0
