"""1-Lipschitz functions that are known to be optimal for some pairs, up to what samples tell."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.program import AbstractOp, Site, op


@final
class Distance(nn.Module):
    r"""l2 distance from a centre, times a sign: optimal between shells, and from a point to all.

    Guarantee: 1-Lipschitz in l2, with gradient norm 1 but at the centre.

    Args:
        centre: of the shape of one input.
        sign: 1, or -1 for the cone upside down.

    Example:
        >>> Distance(torch.zeros(2), -1.0)(torch.tensor([[3.0, 4.0]]))
        tensor([[-5.]])
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, centre: Float[Tensor, "*shape"], sign: float) -> None:
        super().__init__()
        if sign not in (1.0, -1.0):
            raise ValueError(f"`sign` must be 1 or -1; got {sign}.")
        self.register_buffer("centre", centre.detach().clone())
        self.register_buffer("unit", centre.new_ones(()))
        self.sign = float(sign)

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 1"]:
        """The distances as a column."""
        away = (x - self.centre) / self.unit  # near 1, so that no square over- or underflows
        return self.sign * self.unit * away.flatten(1).norm(dim=1, keepdim=True)

    def extra_repr(self) -> str:
        """The sign."""
        return f"sign={self.sign}"


@final
class Potential(nn.Module):
    r"""Kantorovich potential of a finite sample: :math:`f(x) = \min_j \lVert x - y_j\rVert - v_j`.

    Guarantee: 1-Lipschitz in l2, for any points and offsets: a minimum of 1-Lipschitz functions.
        With the offsets of an optimal plan between two samples its dual value is their distance.
    Cost: a distance to each point.

    Args:
        points: the y, each of the shape of one input.
        offsets: the v.

    Example:
        >>> f = Potential(torch.tensor([[0.0], [4.0]]), torch.tensor([0.0, 1.0]))
        >>> f(torch.tensor([[1.0], [4.0]]))
        tensor([[ 1.],
                [-1.]])
    """

    points: Tensor
    offsets: Tensor
    unit: Tensor

    def __init__(self, points: Float[Tensor, "m *shape"], offsets: Float[Tensor, "m"]) -> None:
        super().__init__()
        self.register_buffer("points", points.detach().clone())
        self.register_buffer("offsets", offsets.detach().clone())
        self.register_buffer("unit", points.new_ones(()))

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 1"]:
        """The potentials as a column."""
        # Squares expanded into products would cancel.
        mode = "donot_use_mm_for_euclid_dist"
        sides = (x.flatten(1) / self.unit, self.points.flatten(1) / self.unit)
        away = self.unit * torch.cdist(*sides, compute_mode=mode)
        return (away - self.offsets).amin(1, keepdim=True)


@final
class Clip(nn.Module):
    """Scores kept between two ends, which bounds what a single point can contribute.

    Guarantee: 1-Lipschitz; outputs lie between the ends, which finite-sample intervals rest on.

    Args:
        low: the lower end.
        high: the upper end.

    Example:
        >>> Clip(0.0, 1.0)(torch.tensor([[-2.0], [0.5], [3.0]])).flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not low <= high:
            raise ValueError(f"`high` must be at least `low`; got {high:g} and {low:g}.")
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64))

    def forward(self, scores: Float[Tensor, "b 1"]) -> Float[Tensor, "b 1"]:
        """The scores, those beyond an end moved to it."""
        return scores.clamp(self.low, self.high)


@op(Distance)
class _DistanceOp(AbstractOp):
    proof = "a norm"

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)


@op(Potential)
class _PotentialOp(AbstractOp):
    proof = "least of distances, each with a constant"

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)


_Weights = tuple[Tensor | None, Tensor | None]


def linear(
    p: Float[Tensor, "n *shape"],
    q: Float[Tensor, "m *shape"],
    *,
    weights: _Weights = (None, None),
) -> nn.Sequential:
    r"""The linear critic along the difference of the means: optimal between translates.

    Its dual value is the distance of the means.

    Args:
        p: the sample to score high.
        q: the sample to score low.
        weights: of the points of either sample; None for equal ones.

    Example:
        >>> critic = linear(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        >>> critic(torch.tensor([[1.0, 1.0]]))
        tensor([[1.4000]])
    """
    difference = (_mean(p, weights[0]) - _mean(q, weights[1])).flatten()
    difference = difference / difference.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    direction = difference / difference.norm().clamp(min=torch.finfo(torch.float64).tiny)
    matrix = nn.Linear(len(direction), 1, bias=False).requires_grad_(False)
    matrix.weight.copy_(direction)
    return nn.Sequential(nn.Flatten(), matrix).to(p)


def radial(
    p: Float[Tensor, "n *shape"],
    q: Float[Tensor, "m *shape"],
    *,
    weights: _Weights = (None, None),
) -> list[Distance]:
    """Distances from the mean of either sample, with the sign that scores `p` high.

    Args:
        p: the sample to score high.
        q: the sample to score low.
        weights: of the points of either sample; None for equal ones.

    Example:
        >>> len(radial(torch.zeros(2, 1), torch.ones(2, 1)))
        2
    """
    sides = list(zip((p, q), weights, strict=True))
    cones = [Distance(_mean(*side).to(p.dtype), 1.0).to(p.device) for side in sides]
    signs = []
    for cone in cones:
        high, low = (_mean(cone(points), share) for points, share in sides)
        signs.append(1.0 if high >= low else -1.0)
    return [Distance(cone.centre, sign) for cone, sign in zip(cones, signs, strict=True)]


def nearest(p: Float[Tensor, "n *shape"]) -> nn.Sequential:
    """Minus the distance to the nearest point of a sample: scores low what is unlike all of it.

    Args:
        p: the sample to score high.

    Example:
        >>> nearest(torch.tensor([[0.0], [5.0]]))(torch.tensor([[4.0], [5.0]])).flatten()
        tensor([-1.,  0.])
    """
    flip = nn.Linear(1, 1, bias=False).requires_grad_(False)
    flip.weight.fill_(-1.0)
    return nn.Sequential(Potential(p, p.new_zeros(len(p))), flip.to(p))


def _mean(points: Tensor, weights: Tensor | None) -> Tensor:
    """Mean in float64 of the differences from the first point, exact for equal points."""
    moved = points.double() - points[:1].double()
    if weights is None:
        return points[0].double() + moved.mean(0)
    shares = (weights / weights.sum()).to(moved.device)
    return points[0].double() + torch.tensordot(shares, moved, 1)
