"""The area under the ROC curve, and what is left of it when every score moves."""

from fractions import Fraction

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taut._arguments import check_tensor, positive, unit_share
from taut.certification import Eps, as_rational, constant_of
from taut.linalg.rounding import down, next_down, up

__all__ = ["accepted_at", "auroc", "certified_auroc", "lowered", "raised"]


def auroc(inliers: Float[Tensor, " n"], outliers: Float[Tensor, " m"]) -> float:
    """Share of the pairs in which the inlier scores higher than the outlier; ties do not count.

    Cost: O(N log N) for N scores, by sorting.

    Args:
        inliers: scores of normal samples, which should be high.
        outliers: scores of anomalies.

    Returns:
        The share, rounded down.

    Raises:
        ValueError: if either side is empty, has another shape or holds NaN.

    Example:
        >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        0.75
    """
    high, low = _scores("inliers", inliers), _scores("outliers", outliers)
    below = torch.searchsorted(low.sort().values, high)  # outliers strictly below each inlier
    return _share(int(below.sum()), len(high) * len(low))


def certified_auroc(
    inliers: Float[Tensor, " n"],
    outliers: Float[Tensor, " m"],
    eps: Eps,
    bound: float = 1.0,
) -> float:
    r"""AUROC that holds if every sample is perturbed by up to `eps` in l2.

    With an L-Lipschitz score f, :math:`f(x') \ge f(x) - L \varepsilon` for inliers and
    :math:`f(x') \le f(x) + L \varepsilon` for outliers, so that each pair with
    :math:`f(x_+) - f(x_-) > 2 L \varepsilon` keeps its order.

    Guarantee: at most the exact share of these pairs: differences, products and the share are
        rounded down, and ties count against it. The scores are taken as exact; what a program
        rounds is counted by :func:`taut.anomaly.certify`.
    Cost: O(N log N) for N scores.

    Args:
        inliers: scores of normal samples, which should be high.
        outliers: scores of anomalies.
        eps: l2 radius: a number, a fraction, or a string such as "8/255".
        bound: Lipschitz constant of the score; > 0.

    Raises:
        ValueError: if a side is empty or holds NaN, or `eps` or `bound` is out of its range.

    Reference:
        Béthune et al. (2023), arXiv:2303.01978, whose certified AUROC this is.

    Example:
        >>> certified_auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]), "1/4")
        0.75
        >>> certified_auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]), "1/2")
        0.25
    """
    reach = up(as_rational(eps) * Fraction(positive("bound", constant_of(bound))))
    high, low = _scores("inliers", inliers), _scores("outliers", outliers)
    return auroc(
        lowered(high, torch.full_like(high, reach)), raised(low, torch.full_like(low, reach))
    )


def accepted_at(share: float, inliers: Float64[Tensor, " n"], outliers: Float64[Tensor, " m"]):
    """Share of inliers above all but a share of the outliers, rounded down."""
    allowed = int(Fraction(unit_share("share", share, one=False)) * len(outliers))
    least = outliers.sort(descending=True).values[allowed]
    return _share(int((inliers > least).sum()), len(inliers))


def lowered(scores: Float64[Tensor, " n"], reach: Float64[Tensor, "*n"]) -> Float64[Tensor, " n"]:
    """The scores less `reach`, rounded down."""
    return torch.where(reach == 0, scores, next_down(scores - reach))


def raised(scores: Float64[Tensor, " n"], reach: Float64[Tensor, "*n"]) -> Float64[Tensor, " n"]:
    """The scores plus `reach`, rounded up."""
    return -lowered(-scores, reach)


def _share(count: int, total: int) -> float:
    return abs(down(Fraction(count, total)))  # not -0.0


def _scores(name: str, scores: Tensor) -> Float64[Tensor, " n"]:
    check_tensor(name, scores)
    if scores.dim() != 1 or len(scores) == 0:
        raise ValueError(f"`{name}` must be one score a sample; got {tuple(scores.shape)}.")
    if scores.isnan().any():
        raise ValueError(f"`{name}` must hold numbers; got NaN.")
    return scores.detach().double()
