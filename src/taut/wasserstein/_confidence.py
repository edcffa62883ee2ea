"""What samples say of the distributions they were drawn from."""

import math
from statistics import NormalDist

from jaxtyping import Float64
from torch import Tensor


def mean_slack(
    p: Float64[Tensor, "n"], q: Float64[Tensor, "m"], *, failure: float, span: float | None
) -> float:
    r"""How far the difference of two sample means may lie above that of the expectations.

    Guarantee: with a span, exceeded with probability at most `failure`, for independent draws and
        any sizes: the empirical Bernstein inequality on each sample at half of `failure`. Without
        one, in the limit of large samples: Welch's t quantile.

    Args:
        p: independent values.
        q: independent values.
        failure: probability allowed, one-sided.
        span: length of an interval that surely holds the values; None if none is known.

    Reference:
        Maurer and Pontil (2009), *Empirical Bernstein Bounds and Sample Variance Penalization*,
        theorem 4; arXiv:0907.3740. Welch (1947), *Biometrika* 34.

    Example:
        >>> import torch
        >>> x = torch.zeros(101, dtype=torch.float64)
        >>> round(mean_slack(x, x, failure=0.05, span=1.0), 3)
        0.204
    """
    if span is not None:
        return sum(_bernstein(x, failure / 2, span) for x in (p, q))
    parts = [float(x.var()) / len(x) for x in (p, q)]
    total = sum(parts)
    if total == 0.0:
        return 0.0
    from scipy.special import stdtrit

    weights = [part**2 / (len(x) - 1) for part, x in zip(parts, (p, q), strict=True)]
    return float(stdtrit(total**2 / sum(weights), 1 - failure)) * math.sqrt(total)


def _bernstein(values: Tensor, failure: float, span: float) -> float:
    count, log = len(values), math.log(2 / failure)
    return math.sqrt(2 * float(values.var()) * log / count) + 7 * span * log / (3 * (count - 1))


def transport_slack(
    p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"], *, failure: float, span: float | None
) -> float:
    r"""How far the distance of two distributions may lie above that of samples of them.

    The expectation of the samples' distance is at least the distributions' (a supremum of means):
    only its scatter counts. Another point in place of :math:`x_i` moves it by at most
    :math:`\lVert x_i - x_i' \rVert / n`.

    Guarantee: with a span, exceeded with probability at most `failure`, for independent draws and
        any sizes (McDiarmid). Without one: the variance of the samples' distance is at most
        :math:`\operatorname{tr}\operatorname{Cov}(P) / n + \operatorname{tr}\operatorname{Cov}(Q) /
        m` (Efron and Stein); that of the samples is taken for it, and a normal quantile.

    Args:
        p: independent points.
        q: independent points.
        failure: probability allowed, one-sided.
        span: largest l2 distance of any two points that can be drawn; None if it is not known.

    Reference:
        McDiarmid (1989), *On the method of bounded differences*. Efron and Stein (1981), *The
        jackknife estimate of variance*.

    Example:
        >>> import torch
        >>> x = torch.zeros(100, 1, dtype=torch.float64)
        >>> round(transport_slack(x, x, failure=0.05, span=1.0), 4)
        0.1731
    """
    if span is not None:
        return span * math.sqrt((1 / len(p) + 1 / len(q)) * math.log(1 / failure) / 2)
    variance = sum(float(x.var(0).sum()) / len(x) for x in (p, q))
    return NormalDist().inv_cdf(1 - failure) * math.sqrt(variance)
