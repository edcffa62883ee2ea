"""1-Lipschitz functions that are known to be optimal for some pairs, up to what samples tell."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.lipschitz import NormBound, register


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

    def __init__(self, centre: Float[Tensor, "*shape"], sign: float) -> None:
        super().__init__()
        if sign not in (1.0, -1.0):
            raise ValueError(f"`sign` must be 1 or -1; got {sign}.")
        self.register_buffer("centre", centre.detach().clone())
        self.sign = float(sign)

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 1"]:
        """The distances as a column."""
        return self.sign * (x - self.centre).flatten(1).norm(dim=1, keepdim=True)

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

    def __init__(self, points: Float[Tensor, "m *shape"], offsets: Float[Tensor, "m"]) -> None:
        super().__init__()
        self.register_buffer("points", points.detach().clone())
        self.register_buffer("offsets", offsets.detach().clone())

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 1"]:
        """The potentials as a column."""
        # Squares expanded into products would cancel.
        away = torch.cdist(
            x.flatten(1), self.points.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
        )
        return (away - self.offsets).amin(1, keepdim=True)


@register(Distance)
def _distance(module: Distance, shape: tuple[int, ...]) -> NormBound:
    return NormBound(1.0, "a norm")


@register(Potential)
def _potential(module: Potential, shape: tuple[int, ...]) -> NormBound:
    return NormBound(1.0, "least of distances, each with a constant")


def linear(p: Float[Tensor, "n *shape"], q: Float[Tensor, "m *shape"]) -> nn.Sequential:
    r"""The linear critic along the difference of the means: optimal between translates.

    Its dual value is the distance of the means.

    Args:
        p: the sample to score high.
        q: the sample to score low.

    Example:
        >>> critic = linear(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        >>> critic(torch.tensor([[1.0, 1.0]]))
        tensor([[1.4000]])
    """
    difference = (p.double().mean(0) - q.double().mean(0)).flatten()
    direction = difference / difference.norm().clamp(min=torch.finfo(torch.float64).tiny)
    matrix = nn.Linear(len(direction), 1, bias=False).requires_grad_(False)
    matrix.weight.copy_(direction)
    return nn.Sequential(nn.Flatten(), matrix).to(p)


def radial(p: Float[Tensor, "n *shape"], q: Float[Tensor, "m *shape"]) -> list[Distance]:
    """Distances from the mean of either sample, with the sign that scores `p` high.

    Args:
        p: the sample to score high.
        q: the sample to score low.

    Example:
        >>> len(radial(torch.zeros(2, 1), torch.ones(2, 1)))
        2
    """
    critics = [Distance(sample.double().mean(0).to(p.dtype), 1.0).to(p.device) for sample in (p, q)]
    signs = [1.0 if f(p).mean() >= f(q).mean() else -1.0 for f in critics]
    return [Distance(f.centre, sign) for f, sign in zip(critics, signs, strict=True)]
