"""Checks of arguments, with one sentence for a wrong one."""

import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

# What a share of 1 must be, by whether 0 and 1 are allowed.
_UNIT = {
    (True, True): "from 0 to 1",
    (True, False): "from 0 to below 1",
    (False, True): "above 0 and at most 1",
    (False, False): "between 0 and 1",
}


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """The argument `name` as an int; integers of numpy are accepted.

    Raises:
        ValueError: if it is not an integer, or below `least`.

    Example:
        >>> whole("factor", 0)
        Traceback (most recent call last):
        ValueError: `factor` must be a positive integer; got 0.
    """
    if not _is_whole(value, least):
        raise ValueError(f"`{name}` must be {_kind(least)}; got {_shown(value)}.")
    return int(value)


def wholes(name: str, value: Any, axes: int, *, least: int = 1) -> tuple[int, ...]:
    """The argument `name` as one int per axis; a single integer counts for all axes.

    Raises:
        ValueError: if it is neither an integer nor `axes` integers, or one is below `least`.

    Example:
        >>> wholes("stride", 2, 3)
        (2, 2, 2)
    """
    several = isinstance(value, Iterable) and not isinstance(value, str)
    several = several and getattr(value, "ndim", 1) > 0
    values: tuple[Any, ...] = tuple(value) if several else (value,) * axes
    if len(values) != axes or not all(_is_whole(v, least) for v in values):
        allowed = f"{_kind(least)} or a tuple of {axes}"
        raise ValueError(f"`{name}` must be {allowed}; got {_shown(value)}.")
    return tuple(map(int, values))


def axis(name: str, value: Any) -> int:
    """The argument `name`, an axis of a tensor, as an int of any sign.

    Raises:
        ValueError: if it is not an integer.

    Example:
        >>> axis("dim", -1)
        -1
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be an integer; got {_shown(value)}.")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether the argument is a real number, of Python or of numpy; a truth value is none.

    Example:
        >>> is_number(0.5), is_number("0.5"), is_number(True)
        (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def positive(name: str, value: Any) -> float:
    """The argument `name` as a float.

    Raises:
        ValueError: if it is not a positive finite number.

    Example:
        >>> positive("lr", -1)
        Traceback (most recent call last):
        ValueError: `lr` must be a positive number; got -1.
    """
    exact = rational(value) if is_number(value) else None
    # Exact numbers: numpy would round the limit to the precision of the value.
    if exact is None or not 0 < exact <= sys.float_info.max or float(exact) == 0.0:
        raise ValueError(f"`{name}` must be a positive number; got {_shown(value)}.")
    return float(exact)


def not_negative(name: str, value: Any) -> float:
    """The argument `name` as a float.

    Raises:
        ValueError: if it is not a finite number >= 0.

    Example:
        >>> not_negative("offset", "1")
        Traceback (most recent call last):
        ValueError: `offset` must be a number >= 0; got '1'.
    """
    exact = rational(value) if is_number(value) else None
    if exact is None or not 0 <= exact <= sys.float_info.max:
        raise ValueError(f"`{name}` must be a number >= 0; got {_shown(value)}.")
    return float(exact)


def unit_share(name: str, value: Any, *, zero: bool = True, one: bool = True) -> float:
    """The argument `name` as a float.

    Args:
        name: of the argument.
        value: of the argument.
        zero: whether 0 is allowed.
        one: whether 1 is allowed.

    Raises:
        ValueError: if it is not a number from 0 to 1, or an end that is not allowed.

    Example:
        >>> unit_share("smoothing", 1.0, one=False)
        Traceback (most recent call last):
        ValueError: `smoothing` must be from 0 to below 1; got 1.0.
    """
    fits = is_number(value) and 0 <= value <= 1
    rounded = float(value) if fits else math.nan  # a ratio may round to an end
    if not fits or (rounded == 0 and not zero) or (rounded == 1 and not one):
        raise ValueError(f"`{name}` must be {_UNIT[zero, one]}; got {_shown(value)}.")
    return rounded


def switch(name: str, value: Any) -> bool:
    """The argument `name` as a bool; truth values of numpy are accepted.

    Raises:
        ValueError: if it is no truth value.

    Example:
        >>> switch("flip", "no")
        Traceback (most recent call last):
        ValueError: `flip` must be True or False; got 'no'.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False; got {_shown(value)}.")
    return bool(value)


def each(name: str, value: Any, check: Callable[..., Any], **options: Any) -> tuple[Any, ...]:
    """The argument `name` as a tuple, of which a check takes every item.

    Raises:
        ValueError: if it is no sequence, or as the check does.

    Example:
        >>> each("blocks", [2, np.int64(3)], whole)
        (2, 3)
        >>> each("blocks", (2, 0), whole)
        Traceback (most recent call last):
        ValueError: Each of `blocks` must be a positive integer; got 0.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
        raise ValueError(f"`{name}` must be a tuple; got {_shown(value)}.")
    try:
        return tuple(check(name, one, **options) for one in value)
    except ValueError as error:
        raise ValueError(f"Each of {error}") from None


def shape_of_image(name: str, value: Any) -> tuple[int, ...]:
    """The argument `name`, the shape of one image, as a tuple of ints.

    Raises:
        ValueError: if it is not three positive integers.

    Example:
        >>> shape_of_image("input_shape", (28, 28))
        Traceback (most recent call last):
        ValueError: `input_shape` must be channels, height and width; got (28, 28).
    """
    shape = each(name, value, whole)
    if len(shape) != 3:
        raise ValueError(f"`{name}` must be channels, height and width; got {value}.")
    return shape


def check_fields(owner: Any, check: Callable[..., Any], /, *names: str, **options: Any) -> None:
    """Check fields of a frozen dataclass, each of which becomes what the check returns.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True)
        ... class Settings:
        ...     lr: float = Fraction(1, 2)
        ...     def __post_init__(self):
        ...         check_fields(self, positive, "lr")
        >>> Settings()
        Settings(lr=0.5)
    """
    for name in names:
        object.__setattr__(owner, name, check(name, getattr(owner, name), **options))


def rational(value: Any) -> Fraction | None:
    """The exact value of a finite number or a text such as "36/255"; None for anything else.

    Example:
        >>> rational("36/255"), rational(0.5), rational("nan")
        (Fraction(12, 85), Fraction(1, 2), None)
    """
    try:
        # An exponent of many digits would be multiplied out for hours.
        if isinstance(value, str) and re.search(r"[eE][+-]?(\d_?){5}", value):
            return None
        if isinstance(value, Real) and not isinstance(value, Fraction):  # also of numpy
            value = int(value) if isinstance(value, Integral) else float(value)
        return Fraction(value)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        return None


def check_axes(input: Tensor, axes: int) -> None:
    """Refuse what has other spatial axes, with a batch or without.

    Raises:
        ValueError: if it has more or less.

    Example:
        >>> check_axes(torch.zeros(4), 1)
        Traceback (most recent call last):
        ValueError: `input` must have shape (c, l) or (batch, c, l); got (4,).
    """
    if isinstance(input, fx.Proxy) or len(input.shape) in (axes + 1, axes + 2):
        return
    sizes = ("l", "h, w", "d, h, w")[axes - 1]
    shape = tuple(input.shape)
    raise ValueError(f"`input` must have shape (c, {sizes}) or (batch, c, {sizes}); got {shape}.")


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is no tensor, such as an array or a list.

    Raises:
        ValueError: if it is none; names its type.

    Example:
        >>> check_tensor("images", [0.5])
        Traceback (most recent call last):
        ValueError: `images` must be a torch.Tensor; got list.
    """
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise ValueError(f"`{name}` must be a torch.Tensor; got {kind}.")


def check_module(model: Any) -> None:
    """Refuse a model that is none, such as its weights or its name.

    Raises:
        TypeError: if it is no module; names its type.

    Example:
        >>> check_module("net.pt")
        Traceback (most recent call last):
        TypeError: `model` must be a torch.nn.Module; got str.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}.")


def check_image(image: Tensor, channels: int, axes: int) -> None:
    """Refuse what is neither an image of a convolution nor a batch of them.

    Raises:
        ValueError: if the number of dimensions or channels is another, or the image is empty.

    Example:
        >>> check_image(torch.zeros(2, 5), 3, 1)
        Traceback (most recent call last):
        ValueError: `input` must have shape (3, l) or (batch, 3, l), with l positive; got (2, 5).
    """
    shape = image.shape
    fits = len(shape) in (axes + 1, axes + 2) and shape[-axes - 1] == channels
    if fits and 0 not in shape[-axes:]:
        return
    sizes = ("l", "h, w", "d, h, w")[axes - 1]
    raise ValueError(
        f"`input` must have shape ({channels}, {sizes}) or (batch, {channels}, {sizes}), "
        f"with {sizes} positive; got {tuple(shape)}."
    )


def batch_of(shape: tuple[int, ...]) -> str:
    """The shape of n inputs in words.

    Example:
        >>> batch_of((3, 32, 32)), batch_of(())
        ('(n, 3, 32, 32)', '(n,)')
    """
    return f"(n, {', '.join(map(str, shape))})" if shape else "(n,)"


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _kind(least: int) -> str:
    return "a positive integer" if least == 1 else f"an integer >= {least}"


def _shown(value: Any) -> str:
    """Text in quotes; numbers of numpy as numbers."""
    return repr(value) if isinstance(value, str) else str(value)
