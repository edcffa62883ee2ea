"""Changes of contrast."""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut._arguments import is_number
from taut.threats._cut import Cut
from taut.threats._transformation import (
    AbstractTransformation,
    beside,
    check_search,
    length_of_ones,
)

__all__ = ["Contrast"]


@final
@dataclass(frozen=True)
class Contrast(AbstractTransformation):
    r"""Changes of contrast, :math:`c + (1 + t)(x - c)` with :math:`|t| \le r`.

    Guarantee: no change t smaller than the radius changes the answer, as of :class:`Brightness`.

    Args:
        centre: c, the grey that stays as it is; 0 multiplies images by 1 + t.
        limit: sizes are searched up to this one, which is the largest radius.
        clip: whether changed pixels are clipped to [0, 1].
        cells: how many intervals are tried for each image, at most.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> model, images = torch.nn.Linear(3, 2, bias=False), torch.rand(4, 3)
        >>> labels = model(images).argmax(1)
        >>> threat = Contrast(centre=0.0, limit=0.9)
        >>> found = taut.threats.certify(model, images, labels, threat, eps=0.8)
        >>> found.certified_accuracy  # without a bias, factors change no answer
        {0.8: 1.0}
    """

    kind = "contrast"
    unit = "share of the contrast"
    centre: float = 0.5
    limit: float = 0.9
    clip: bool = False
    cells: int = 200

    def __post_init__(self) -> None:
        check_search(self.limit, self.cells)
        if not is_number(self.centre) or not math.isfinite(self.centre):
            raise ValueError(f"`centre` must be a finite number; got {self.centre!r}.")

    def transformed(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The changed images, clipped if asked for."""
        factor = beside(1 + parameters[:, 0], images)
        moved = self.centre + factor * (images - self.centre)
        return moved.clamp(0.0, 1.0) if self.clip else moved

    def largest_norm(self, norms: Tensor, entries: int) -> Tensor:
        """The norms of the terms: the factor times image and grey, and the grey."""
        grey = abs(self.centre) * length_of_ones(entries)
        return (1 + self.limit) * (norms + grey) + grey

    def proof(self, cut: Cut) -> str:
        """Intervals that are proven one after the other."""
        return "intervals of the factor, each with the Lipschitz bound"
