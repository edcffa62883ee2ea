r"""Certified radii of the k highest classes: how far until the label leaves them.

The label y leaves the k highest logits only where k other classes J are ahead of it at once. Two
bounds of the radius follow, and the larger one counts.

*One by one.* Fewer than k classes can be ahead below the k-th smallest of the radii
:math:`(z_y - z_j) / L_{yj}`.

*Together.* For any :math:`c_j \ge 0`, :math:`\sum_J c_j (z_y - z_j)` has the constant

.. math:: L \sqrt{(\textstyle\sum c_j)^2 + \sum c_j^2}

for logits that are L-Lipschitz as a map, and is positive at the point if the gaps
:math:`g_j = z_y - z_j` are. Numbers c sorted as the k smallest gaps give no more for these than for
any other k classes. With :math:`c_j = (g_j - \tau)_+`, :math:`\tau = \sum_J (g_j - \tau)_+`,
the radius is the l2 distance of the logits to those of which y is not among the k highest, over L.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taut._arguments import whole
from taut.certification._radius import bound_with_head, constant_of, radii_to_classes
from taut.linalg.rounding import next_down
from taut.program import LipschitzBound

__all__ = ["certified_top_k", "check_top_k", "radius_to_leave"]

_LEAST = 2.0**-200
"""Shares and sums below it count as 0: no product of others underflows."""


def certified_top_k(
    logits: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"],
    bound: float | LipschitzBound,
    k: int,
    *,
    head: Float[Tensor, "k n"] | None = None,
) -> Float[Tensor, " b"]:
    r"""l2 radius within which the label stays among the k highest logits.

    Guarantee: never above the exact bound for the given logits and constants; at least the radius
    of :func:`certified_radius`, which it is for k = 1.

    Args:
        logits: of the model at the points.
        labels: true classes.
        bound: a proven Lipschitz constant of the whole map from inputs to logits.
        k: from 1 to the number of classes less one.
        head: the matrix of the last layer, if `bound` is of what it multiplies.

    Returns:
        Radii in float64; 0 where the label is not among the k highest, or ties with the next.

    Raises:
        ValueError: as `certified_radius` does, or if k is out of range.

    Example:
        >>> logits = torch.tensor([[3.0, 2.0, 0.0]])
        >>> certified_top_k(logits, torch.tensor([0]), 1.0, k=2)
        tensor([2.1213], dtype=torch.float64)
        >>> certified_top_k(logits, torch.tensor([1]), 1.0, k=2)
        tensor([1.4142], dtype=torch.float64)
    """
    bound = bound_with_head(logits, labels, bound, head)
    k = check_top_k(k, logits.shape[1])
    radii = radii_to_classes(logits, labels, bound)
    z = logits.detach().double()
    gaps = next_down(z.gather(1, labels[:, None]) - z).where(radii > 0, 0.0)
    return radius_to_leave(radii, gaps, labels, k, constant_of(bound))


def check_top_k(k: object, classes: int, *, name: str = "k") -> int:
    """The number of highest classes, at least 1 and fewer than there are."""
    count = whole(name, k)
    if count >= classes:
        raise ValueError(f"`{name}` must be below the number of classes, {classes}; got {count}.")
    return count


def radius_to_leave(
    radii: Float[Tensor, "b k"],
    gaps: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"],
    k: int,
    constant: float,
    slope: float = 0.0,
) -> Float[Tensor, " b"]:
    """The radius until k classes are ahead of the label at once.

    Args:
        radii: to each class, infinite for the label.
        gaps: lower bounds of the label's logit less each other one.
        labels: a class of each point.
        k: fewer than there are classes.
        constant: Lipschitz constant of the logits as one map.
        slope: by which gaps shrink beside, per unit of the radius.
    """
    one_by_one = radii.topk(k, dim=1, largest=False).values[:, -1]
    others = gaps.clamp(min=0.0).scatter(1, labels[:, None], torch.inf)
    near = others.topk(k, dim=1, largest=False).values
    best = one_by_one
    for m in range(1, k + 1):  # tau, if the m largest gaps are above it
        level = near[:, k - m :].sum(1, keepdim=True) / (m + 1)
        best = torch.maximum(best, _together(near, (near - level).clamp(min=0.0), constant, slope))
    return best


def _together(near: Tensor, shares: Tensor, constant: float, slope: float) -> Tensor:
    """The radius from these c, rounded down: at most 2 k + 8 roundings above and below."""
    shares = shares / shares.amax(1, keepdim=True).clamp(min=_LEAST)
    shares = shares.where(shares > _LEAST, 0.0)
    lead, total = (shares * near).sum(1), shares.sum(1)
    steep = constant * (total.square() + shares.square().sum(1)).sqrt() + slope * total
    room = (2 * near.shape[1] + 8) * 2.0**-52
    radius = lead * (1 - room) / (steep * (1 + room))
    proven = (lead > _LEAST) & (lead < torch.inf)  # sums of huge gaps overflow
    return radius.where(proven, 0.0).nan_to_num(0.0, posinf=torch.inf)
