r"""Reads a pickle of numbers, strings, lists, dicts and uint8 arrays without running its code.

CIFAR's python batches are pickles, and a pickle can name any function to call. Here the few names
that an array needs resolve to stand-ins of our own, which only record what they are given, and
every other name is refused: not even numpy's own reconstruction runs on the file's word.
"""

import io
import math
import pickle
from typing import Any, final

import numpy as np

# What damaged pickles raise on the way.
_BROKEN = (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError)


@final
class _Array:
    r"""What the pickle says about an array."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_Dtype", bool, bytes]) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.name != "u1" or not isinstance(data, bytes) or math.prod(shape) != len(data):
            raise pickle.UnpicklingError("an array that is not made of whole bytes")
        order = "F" if fortran else "C"
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order=order)


@final
class _Dtype:
    r"""What the pickle says about a dtype."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """Byte order and alignment mean nothing for single bytes."""


@final
class _NdArray:
    r"""Stands for the class `numpy.ndarray`, an argument that is never called."""


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _NdArray,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encode,
}


@final
class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refused, it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_inert_pickle(data: bytes, source: object) -> dict[str, Any]:
    r"""The dict in a pickle, its keys as text and its arrays as numpy's.

    Args:
        data: the pickle, from Python 2 or 3.
        source: the file, for the message.

    Returns:
        The dict.

    Raises:
        ValueError: if it is damaged, holds no dict, or names anything but a uint8 array.

    Example:
        >>> read_inert_pickle(pickle.dumps({"labels": [1, 2]}), "here")
        {'labels': [1, 2]}
        >>> read_inert_pickle(pickle.dumps({"f": print}), "here")
        Traceback (most recent call last):
        ValueError: here: not a pickle of plain data: refused, it asks for builtins.print.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except (*_BROKEN, TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"{source}: not a pickle of plain data: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source}: the pickle must hold a dict; got {type(content).__name__}.")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): (
            value.value if isinstance(value, _Array) else value
        )
        for key, value in content.items()
    }
