"""Changes of brightness."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.threats._cut import Cut
from taut.threats._transformation import (
    AbstractTransformation,
    beside,
    check_search,
    length_of_ones,
)

__all__ = ["Brightness"]


@final
@dataclass(frozen=True)
class Brightness(AbstractTransformation):
    r"""One number that is added to all pixels, :math:`x + b` with :math:`|b| \le r`.

    Guarantee: no number smaller than the radius changes the answer. Intervals of b are proven one
        after the other, so that the radius is larger than the l2 radius over the root of the
        number of pixels, and mostly close to the largest that is true.

    Args:
        limit: sizes are searched up to this one, which is the largest radius.
        clip: whether changed pixels are clipped to [0, 1].
        cells: how many intervals are tried for each image, at most.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> model, images = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), Brightness())
        >>> bool((found.radius <= 0.5).all())
        True
    """

    kind = "brightness"
    unit = "added to each pixel"
    limit: float = 0.5
    clip: bool = False
    cells: int = 200

    def __post_init__(self) -> None:
        check_search(self.limit, self.cells)

    def transformed(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The sum, clipped if asked for."""
        moved = images + beside(parameters[:, 0], images)
        return moved.clamp(0.0, 1.0) if self.clip else moved

    def largest_norm(self, norms: Tensor, entries: int) -> Tensor:
        """The norm of the image plus that of the largest number on all pixels."""
        return norms + self.limit * length_of_ones(entries)

    def proof(self, cut: Cut) -> str:
        """Intervals that are proven one after the other."""
        return "intervals of the number added, each with the Lipschitz bound"
