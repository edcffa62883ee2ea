"""Changes of few pixels, to anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taut._arguments import is_number
from taut.linalg.rounding import next_down, next_up, outward
from taut.threats._base import AbstractThreat, Radii
from taut.threats._cut import Cut
from taut.threats._l2 import L2

__all__ = ["L0"]


@final
@dataclass(frozen=True)
class L0(AbstractThreat):
    r"""Changes of at most r pixels, to any values in a range: the one-pixel attack and its kin.

    A pixel x moves by at most :math:`m = \max(x - a, b - x)` in the range [a, b], over all its
    channels by the root of the sum of :math:`m^2`. So the label is safe as long as the largest of
    these squares add up to no more than the square of the l2 radius.

    A radius of 2.6 says that any 2 pixels may change to anything; the digits behind the point say
    how much of the next one is covered.

    Guarantee: no change of fewer pixels than the radius, within the range, changes the answer.

    Args:
        low: the smallest value of a pixel.
        high: the largest value of a pixel.

    Raises:
        ValueError: if the range is empty; on certifying, if an image leaves it.

    Example:
        >>> model, images = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), L0(), eps=1)
        >>> sorted(found.certified_accuracy)
        [1]
    """

    kind = "l0"
    unit = "pixels"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (
            is_number(self.low)
            and is_number(self.high)
            and -math.inf < self.low < self.high < math.inf
        ):
            raise ValueError(
                f"`low` must be a number below `high`; got low={self.low}, high={self.high}."
            )

    def check(self, images: Tensor, sizes: Sequence[float]) -> None:
        """Refuse images with values out of the range."""
        if bool(((images < self.low) | (images > self.high)).any()):
            raise ValueError(
                f"`images` must be within low={self.low} and high={self.high}; got "
                f"{float(images.min()):g} to {float(images.max()):g}."
            )

    def proof(self, cut: Cut) -> str:
        """The l2 radius, over the l2 norms of the largest changes."""
        return f"the l2 radius, for pixels that move within [{self.low:g}, {self.high:g}]"

    def prepared(self, cut: Cut, top_k: int) -> Radii:
        """The radii of l2, converted to numbers of pixels."""
        of_l2 = L2().prepared(cut, top_k)

        def radii(images: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
            radius, to_classes = of_l2(images, logits, labels)
            squares = self._squares(images)
            assert to_classes is not None
            return _pixels(radius[:, None], squares)[:, 0], _pixels(to_classes, squares)

        return radii

    def _squares(self, images: Tensor) -> Tensor:
        """Squared distances over which pixels may move, the largest first, rounded up: (b, n)."""
        wide = images.detach().cpu().double()
        most = next_up(torch.maximum(wide - self.low, self.high - wide))
        squares = outward(most.square(), 1)
        if squares.dim() > 2:  # (b, c, ...): all channels of a pixel change
            squares = outward(squares.sum(1), squares.shape[1])
        return squares.flatten(1).sort(1, descending=True).values


def _pixels(radius: Tensor, squares: Tensor) -> Tensor:
    """How many pixels may change, and the share of the next one: between two whole numbers."""
    sums = outward(squares.cumsum(1), squares.shape[1])
    room = next_down(next_down(radius) * next_down(radius)).clamp(min=0.0)
    count = torch.searchsorted(sums, room, right=True)
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums], 1).gather(1, count)
    following = torch.cat([squares, squares[:, -1:]], 1).gather(1, count)
    share = ((room - before) / following).clamp(2.0**-20, 1 - 2.0**-20)
    pixels = torch.where(count == squares.shape[1], math.inf, count + share)
    return pixels.where(radius > 0, 0.0)
