"""What a method of attack is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._objective import Objective


@dataclass(frozen=True)
class AbstractAttack(ABC):
    """A search for misclassified images in an l2 ball. One method, one file.

    The driver hands over correctly classified images alone, clips what comes back and judges it.

    Example:
        >>> from taut.attacks import PGD
        >>> isinstance(PGD(), AbstractAttack)
        True
    """

    @abstractmethod
    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return candidates within `radius` of `images`."""


class AbstractSmallestAttack(AbstractAttack):
    """A search for the misclassified image nearest to each image.

    It may look beyond `radius`, which the driver then clips to.

    Example:
        >>> from taut.attacks import DDN, PGD
        >>> isinstance(DDN(), AbstractSmallestAttack), isinstance(PGD(), AbstractSmallestAttack)
        (True, False)
    """
