"""Two samples in units in which nothing over- or underflows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taut.linalg.rounding import up_root
from taut.wasserstein._exact import UNDERFLOW, common_exponent, rescaled
from taut.wasserstein._plan import Masses
from taut.wasserstein._samples import Points

# Tensors of critics that scale with the points.
_LENGTHS = ("bias", "centre", "points", "offsets", "unit", "low", "high")


def exponent_of_all(p: Points, q: Points) -> int:
    """The k for which all points over 2^k have an extent of at most 1."""
    given = (torch.cat([side.seen, side.everything]) for side in (p, q))
    return common_exponent(*(points.flatten(1).double() for points in given))


@final
@dataclass(frozen=True, eq=False)
class ScaledPair:
    """Both sides over 2^exponent.

    With the exponent of all points or of a domain the largest extent along an axis is at most 1,
    which `allowance` rests on; with that of some points the others may lie further out.

    Attributes:
        exponent: of the unit of length.
        p: points to score high.
        q: points to score low.
        flat: all points of both sides as vectors in float64.
        masses: of all points.
        allowance: what a plan between `flat` may cost less than one between the samples as given:
            for weights rounded to units, and for coordinates lost to underflow.
    """

    exponent: int
    p: Points
    q: Points
    flat: tuple[Float64[Tensor, "n d"], Float64[Tensor, "m d"]]
    masses: Masses
    allowance: Fraction

    @classmethod
    def of(cls, p: Points, q: Points, exponent: int | None = None) -> "ScaledPair":
        """Scale both sides by one power of two, by default that of the extent of all points."""
        x, y = (side.everything.flatten(1).double() for side in (p, q))
        if exponent is None:
            exponent = exponent_of_all(p, q)
        flat = rescaled(x, -exponent), rescaled(y, -exponent)
        restored = (rescaled(side, exponent) for side in flat)
        lossless = all(map(torch.equal, restored, (x, y)))
        masses = Masses.of(_weights(p), _weights(q))
        diameter = Fraction(up_root(float(x.shape[1]))) * Fraction(1 + 2.0**-50)
        allowance = masses.misplaced * diameter + (0 if lossless else Fraction(UNDERFLOW))
        p, q = p.scaled(-exponent), q.scaled(-exponent)
        return cls(exponent, p, q, flat, masses, allowance)

    def restored(self, value: float, rounding: Callable[[Fraction], float]) -> float:
        """A length in the units of the samples as given, rounded up or down."""
        if math.isinf(value):
            return value
        return rounding(Fraction(value) * Fraction(2) ** self.exponent) + 0.0  # never -0.0

    @torch.no_grad()
    def restored_critic(self, critic: nn.Module) -> nn.Module:
        """A critic made for the scaled points, for the points as given; its bound is the same.

        With f(x) for scaled points it is 2^k f(x / 2^k): linear layers and activations commute with
        factors > 0, so that only biases and what closed forms know of points are scaled.
        """

        def lengths() -> list[Tensor]:
            tensors = chain(critic.named_parameters(), critic.named_buffers())
            return [x for name, x in tensors if name.rpartition(".")[2] in _LENGTHS]

        most = torch.finfo(torch.float64).max
        values = [rescaled(x.double(), self.exponent).clamp(-most, most) for x in lengths()]
        if not all(
            torch.equal(value.to(x.dtype).double(), value)
            for x, value in zip(lengths(), values, strict=True)
        ):
            critic.double()
        for x, value in zip(lengths(), values, strict=True):
            x.copy_(value)
        return critic


def _weights(side: Points) -> Tensor:
    ones = torch.ones(len(side.everything), dtype=torch.float64, device="cpu")
    return ones if side.weights is None else side.weights
