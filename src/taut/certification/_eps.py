"""One convention for `eps`, for certificates and for attacks."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from taut.certification._radius import as_rational
from taut.linalg.rounding import up

Eps = int | float | str | Fraction
"""One l2 radius: a number, a fraction, or a string such as "8/255"."""


def as_eps_sequence(eps: object, *, positive: bool = False) -> tuple[Eps, ...]:
    """Read one eps or a sequence of them.

    Arrays and tensors of numbers count as sequences of their elements. A string is read as a whole.

    Args:
        eps: a number, a fraction, a string such as "8/255", or a sequence of these.
        positive: whether to refuse 0, numbers that no float can hold, and an empty sequence.

    Returns:
        The values as they were given, in their order.

    Raises:
        ValueError: if `eps` is none of these.

    Example:
        >>> as_eps_sequence("8/255"), as_eps_sequence([0.5, "36/255"])
        (('8/255',), (0.5, '36/255'))
    """
    given = _plain(eps)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        given = [given]
    values = tuple(map(_plain, given))
    if not all(_is_eps(value, positive) for value in values) or (positive and not values):
        number = "a positive number" if positive else "a number >= 0"
        raise ValueError(
            f'`eps` must be {number} or a string such as "36/255", or a sequence of these; '
            f"got eps={eps!r}."
        )
    return values


def as_radius(eps: object) -> float:
    """Read one eps, as the smallest float that is not below it.

    Raises:
        ValueError: if `eps` is not one number >= 0 or a string such as "36/255".

    Example:
        >>> as_radius("36/255") >= 36 / 255
        True
    """
    values = as_eps_sequence(eps)
    if len(values) != 1:
        raise ValueError(f"`eps` must be one l2 radius; got {len(values)}.")
    return up(as_rational(values[0]))


def _plain(value: Any) -> Any:
    """Turn arrays and tensors into Python numbers."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value


def _is_eps(value: Any, positive: bool) -> bool:
    try:
        exact = as_rational(value if isinstance(value, str) else Fraction(value))
        return 0 < float(exact) < math.inf if positive else True
    except (ValueError, TypeError, ArithmeticError):
        return False
