"""What a method of attack is."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

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


def check_counts(**counts: int) -> None:
    """Refuse options that count something, and with which nothing would happen.

    Args:
        **counts: by the name of the option.

    Raises:
        ValueError: if one is below 1.

    Example:
        >>> check_counts(steps=0)
        Traceback (most recent call last):
        ValueError: `steps` must be at least 1; got steps=0.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1; got {name}={count}.")


def check_sizes(**sizes: float) -> None:
    """Refuse options that measure something and are not above 0.

    Args:
        **sizes: by the name of the option.

    Raises:
        ValueError: if one is not positive, or no number.

    Example:
        >>> check_sizes(step_size=0.0)
        Traceback (most recent call last):
        ValueError: `step_size` must be positive; got step_size=0.0.
    """
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"`{name}` must be positive; got {name}={size}.")


class AbstractSmallestAttack(AbstractAttack):
    """A search for the misclassified image nearest to each image.

    It may look beyond `radius`, which the driver then clips to.

    Example:
        >>> from taut.attacks import DDN, PGD
        >>> isinstance(DDN(), AbstractSmallestAttack), isinstance(PGD(), AbstractSmallestAttack)
        (True, False)
    """


def as_radius(eps: int | float | str | Fraction) -> float:
    """Read eps as a positive number.

    Raises:
        ValueError: if it is none.

    Example:
        >>> as_radius("1/2")
        0.5
    """
    try:
        value = float(Fraction(eps) if isinstance(eps, str) else eps)
    except (ValueError, ArithmeticError):
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f'`eps` must be a positive number or a string such as "36/255"; got eps={eps!r}.'
        )
    return value
