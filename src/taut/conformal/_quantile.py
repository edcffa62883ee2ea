r"""The threshold of split conformal prediction, with its exact rank."""

import math
from fractions import Fraction

from jaxtyping import Float
from torch import Tensor

from taut._arguments import check_tensor, rational

__all__ = ["Alpha", "as_alpha", "conformal_threshold", "points_needed", "too_few"]

Alpha = int | float | str | Fraction
"""A rate of errors: a number in (0, 1), a fraction, or a text such as "1/10"."""


def conformal_threshold(scores: Float[Tensor, " n"], alpha: Alpha) -> float:
    r"""The k-th smallest of n scores, :math:`k = \lceil (n + 1) (1 - \alpha) \rceil`.

    Guarantee: if a new score is exchangeable with the n others, it is at most the threshold with
        probability at least :math:`1 - \alpha`, for any n and any distribution. Infinite if k > n:
        there are too few scores, see :func:`points_needed`. The rank is exact: alpha is taken as
        the number that it is, and 0.1 is the float, "1/10" the fraction.
    Cost: one sort.

    Args:
        scores: of calibration points; larger is worse.
        alpha: rate of errors, in (0, 1).

    Raises:
        ValueError: if alpha is not in (0, 1), or the scores are no vector without NaN.

    Reference:
        Vovk, Gammerman, Shafer (2005), *Algorithmic Learning in a Random World*. Papadopoulos et
        al. (2002), *Inductive Confidence Machines for Regression*.

    Example:
        >>> conformal_threshold(torch.tensor([3.0, 1.0, 2.0, 4.0]), "1/5")
        4.0
    """
    check_tensor("scores", scores)
    if scores.dim() != 1 or bool(scores.isnan().any()):
        raise ValueError(
            f"`scores` must be a vector without NaN; got shape {tuple(scores.shape)}"
            f"{' with NaN' if scores.dim() == 1 else ''}."
        )
    rank = math.ceil((len(scores) + 1) * (1 - as_alpha(alpha)))
    return scores.sort().values[rank - 1].item() if rank <= len(scores) else math.inf


def points_needed(alpha: Alpha) -> int:
    """The fewest calibration points with a finite threshold.

    Args:
        alpha: rate of errors, in (0, 1).

    Raises:
        ValueError: if alpha is not in (0, 1).

    Example:
        >>> points_needed("1/10"), points_needed(0.5)
        (9, 1)
    """
    return math.ceil(1 / as_alpha(alpha)) - 1


def too_few(alpha: Alpha, consequence: str) -> str:
    """A line of a result without a finite threshold."""
    return f"  too few points: {consequence}; alpha={alpha} needs {points_needed(alpha)} or more"


def as_alpha(alpha: Alpha) -> Fraction:
    """The exact value of a rate of errors."""
    exact = rational(alpha)
    if exact is None or not 0 < exact < 1:
        raise ValueError(f'`alpha` must be in (0, 1), such as 0.1 or "1/10"; got {alpha!r}.')
    return exact
