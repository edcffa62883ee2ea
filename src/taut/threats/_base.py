"""What a threat is: a set of changed images of each size, and a radius for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from taut.threats._cut import Cut

__all__ = ["AbstractThreat", "Radii"]

Radii = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""From images, their logits and labels to the radius of each, and to those against each class."""


class AbstractThreat(ABC):
    """A family of changes of an image, larger for a larger size; a frozen dataclass.

    A subclass states its `kind`, and the `unit` of its sizes.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]

    @abstractmethod
    def proof(self, cut: Cut) -> str:
        """Where the radius comes from, in words."""

    @abstractmethod
    def prepared(self, cut: Cut, top_k: int) -> Radii:
        """All that does not depend on the images, done once; then the radii of batches.

        Args:
            cut: the certified model.
            top_k: how many of the highest classes the label must be one of.

        Raises:
            ValueError: if a setting does not fit the model.
        """

    def check(self, images: Tensor, sizes: Sequence[float]) -> None:
        """Refuse images and sizes that the threat does not cover; none by default.

        Raises:
            ValueError: if there are such.
        """
        del images, sizes
