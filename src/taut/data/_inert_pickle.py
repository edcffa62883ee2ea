r"""Reads a pickle of numbers, strings, lists, dicts and uint8 arrays without running its code.

A pickle can name any function to call. Here the few names that an array needs resolve to classes of
our own, which only record their arguments, and every other name is refused.
"""

import io
import math
import pickle
import pickletools
import warnings
from typing import Any, cast, final

import numpy as np

from taut.data._checks import Data

# Raised by damaged pickles.
_BROKEN = (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError,
           MemoryError, TypeError, ValueError)  # fmt: skip


@final
class _Recorded:
    """Records the arguments and the state of what it stands for."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "dtype"): _Recorded,
    ("numpy", "ndarray"): _Recorded,  # an argument, never called
    ("numpy.core.multiarray", "_reconstruct"): _Recorded,
    ("numpy._core.multiarray", "_reconstruct"): _Recorded,
    ("_codecs", "encode"): _encode,
}


@final
class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refused, it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_inert_pickle(data: Data) -> dict[str, Any]:
    """The dict in a pickle of Python 2 or 3, its keys as text and its arrays as numpy's."""
    try:
        _check_memo(data)
        content = _plain(_Unpickler(io.BytesIO(data), encoding="bytes").load())
        if isinstance(content, dict):
            return {_text(key): _plain(value) for key, value in content.items()}
    except _BROKEN as error:
        raise ValueError(f"not a pickle of plain data: {error}.") from error
    raise ValueError(f"the pickle must hold a dict; got {type(content).__name__}.")


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _plain(value: Any) -> Any:
    """The array of bytes that was recorded; all else as it is."""
    if not isinstance(value, _Recorded):
        return value
    _, shape, dtype, fortran, data = cast(tuple[Any, ...], value.state)
    if _text(dtype.args[0]) != "u1" or not isinstance(data, bytes) or math.prod(shape) != len(data):
        raise pickle.UnpicklingError("an array that is not made of whole bytes")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _check_memo(data: Data) -> None:
    """Refuse an index into the table of objects that no true pickle has: the table grows to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in damaged text
        for opcode, argument, _ in pickletools.genops(data):
            if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError(f"it numbers an object {argument:,}")
