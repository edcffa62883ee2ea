"""What samples say of the distributions they were drawn from."""

import math
from statistics import NormalDist

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taut.wasserstein._extra import extra


def domain_span(
    domain: tuple[float, float] | None, p: Float[Tensor, "n *shape"], q: Float[Tensor, "m *shape"]
) -> float | None:
    """The largest distance that a domain allows, which must hold the points; None without one."""
    if domain is None:
        return None
    least, most = min(float(x.min()) for x in (p, q)), max(float(x.max()) for x in (p, q))
    if least < domain[0] or most > domain[1]:
        raise ValueError(
            f"`domain` must hold every coordinate of the points; got {domain} for points from "
            f"{least:g} to {most:g}."
        )
    return (domain[1] - domain[0]) * math.sqrt(p[0].numel())


def mean_slack(
    p: Float64[Tensor, "n"], q: Float64[Tensor, "m"], *, failure: float, span: float | None
) -> float:
    """How far the difference of two sample means may lie above that of the expectations.

    With the length `span` of an interval that surely holds the independent values, it is exceeded
    with probability at most `failure`, for any sizes: the empirical Bernstein inequality on each
    sample at half of `failure`. Without one, in the limit of large samples: Welch's t quantile.

    Reference:
        Maurer and Pontil (2009), *Empirical Bernstein Bounds and Sample Variance Penalization*,
        theorem 4; arXiv:0907.3740. Welch (1947), *Biometrika* 34.
    """
    if span is not None:
        return sum(_bernstein(x, failure / 2, span) for x in (p, q))
    parts = [float(x.var()) / len(x) for x in (p, q)]
    total = sum(parts)
    if total == 0.0:
        return 0.0
    weights = [(part / total) ** 2 / (len(x) - 1) for part, x in zip(parts, (p, q), strict=True)]
    return student_quantile(1 / sum(weights), 1 - failure) * math.sqrt(total)


def student_quantile(freedom: float, probability: float) -> float:
    """Quantile of Student's t distribution."""
    special = extra("scipy.special", "An interval without `domain`", "set `domain` or `held_out=0`")
    return float(special.stdtrit(freedom, probability))


def _bernstein(values: Tensor, failure: float, span: float) -> float:
    count, log = len(values), math.log(2 / failure)
    return math.sqrt(2 * float(values.var()) * log / count) + 7 * span * log / (3 * (count - 1))


def least_difference(
    p: Float64[Tensor, "n"],
    q: Float64[Tensor, "m"],
    *,
    failure: float,
    span: float,
    deviation: float,
) -> float:
    r"""A lower bound of the difference of two means, from samples of any sizes; at least 0.

    With z in [0, 1] the scaled differences of scores in pairs and :math:`\mu` their mean, the
    capital :math:`\prod_i (1 + r (z_i - \mu))` has expectation 1 and is not negative for
    :math:`0 \le r \le 1 / \mu`. By Markov it is at least 1 / `failure` with probability at most
    `failure`: means for which it is, are refuted, and it falls as the mean grows. Capital is split
    between three rates r.

    Args:
        p: independent draws, whose mean is expected to be the higher one.
        q: independent draws; r of the p are paired with one q if there are r times as many.
        failure: probability that the bound is too high.
        span: length of an interval that surely holds all values.
        deviation: a guess, from other points, of the standard deviation of the differences; a wrong
            one costs sharpness alone.

    Reference:
        Waudby-Smith and Ramdas (2024), *Estimating means of bounded random variables by betting*,
        arXiv:2010.09686, section 4.

    >>> zeros = torch.zeros(100).double()
    >>> round(least_difference(zeros + 0.9, zeros, failure=0.05, span=1.0, deviation=0.1), 2)
    0.84
    """
    count = min(len(p), len(q))
    x, y = (side[: len(side) // count * count].reshape(count, -1).mean(1) for side in (p, q))
    if span <= 0.0:
        return 0.0
    z = ((x - y) / (2 * span) + 0.5).clamp(0.0, 1.0)
    rate = 2 * span / max(deviation, 1e-3 * span) * math.sqrt(2 * math.log(1 / failure) / count)
    rates = rate * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, device=z.device)

    def refuted(mean: float) -> bool:
        capital = torch.log1p(rates.clamp(max=0.9 / mean)[:, None] * (z - mean)).sum(1)
        return float(capital.logsumexp(0)) - math.log(len(rates)) > 1e-6 - math.log(failure)

    low, high = 0.5, 1.0
    if not refuted(low):
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return (2 * low - 1) * span * (1 - 2.0**-40)


def transport_slack(
    p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"], *, failure: float, span: float | None
) -> float:
    r"""How far the distance of two distributions may lie above that of samples of them.

    The expectation of the samples' distance is at least the distributions' (a supremum of means):
    only its scatter counts. Another point in place of :math:`x_i` moves it by at most
    :math:`\lVert x_i - x_i' \rVert / n`. With the largest distance `span` of two points that can be
    drawn, it is exceeded with probability at most `failure`, for independent points and any sizes
    (McDiarmid). Without one: the variance of the samples' distance is at most
    :math:`\operatorname{tr}\operatorname{Cov}(P) / n + \operatorname{tr}\operatorname{Cov}(Q) / m`
    (Efron and Stein); that of the samples is taken for it, and a normal quantile.

    Reference:
        McDiarmid (1989), *On the method of bounded differences*. Efron and Stein (1981), *The
        jackknife estimate of variance*.
    """
    if span is not None:
        return span * math.sqrt((1 / len(p) + 1 / len(q)) * math.log(1 / failure) / 2)
    variance = sum(float((x - x[0]).var(0).sum()) / len(x) for x in (p, q))
    return NormalDist().inv_cdf(1 - failure) * math.sqrt(variance)
