"""Torch's settings by which float32 products are rounded more: read, and switched off for a while.

There are two sets of them, `torch.set_float32_matmul_precision` and `allow_tf32`, and since torch
2.9 `fp32_precision` of each backend. The old ones raise where the new ones were used, so the new
ones are asked where torch has them. Variables of the environment round all that oneDNN computes,
whatever torch's settings say: where exact convolutions are needed, they then do without oneDNN.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from taut._torch_private import constant_when_compiled

ONEDNN_VARIABLES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
"""The variables of the environment by which oneDNN may round float32, whatever torch's settings."""

_EXACT = ("none", "ieee")
# Beside the types of devices, for their products.
_CONVOLUTIONS, _ONEDNN = "convolutions of the CPU", "oneDNN"


@constant_when_compiled  # or the compiler stops at the question
def rounds_products(device: torch.device) -> bool:
    """Whether torch may round the factors of float32 products on this device.

    Example:
        >>> rounds_products(torch.device("cpu"))
        False
    """
    backend = _backend(device.type)
    if backend is not None:
        return backend.fp32_precision not in _EXACT
    return device.type in ("cuda", "xpu") and torch.get_float32_matmul_precision() != "highest"


def reduced_settings(device: torch.device) -> Iterator[tuple[str, Any]]:
    """The settings by which products or convolutions of float32 are rounded more, and their values.

    Example:
        >>> list(reduced_settings(torch.device("cpu")))
        []
    """
    on_gpu = device.type == "cuda"
    matmul, conv = ("cuda.matmul", "cudnn.conv") if on_gpu else ("mkldnn.matmul", "mkldnn.conv")
    value = _answer(torch.get_float32_matmul_precision, "highest")
    # It is one for all devices, of which the new settings may say that they are not concerned.
    if value != "highest" and rounds_products(device):
        yield "torch.get_float32_matmul_precision()", value
    if on_gpu and _answer(lambda: torch.backends.cudnn.allow_tf32, False):
        yield "torch.backends.cudnn.allow_tf32", True
    for name in (matmul, conv):
        backend, family = name.split(".")
        part = getattr(getattr(torch.backends, backend), family, None)
        value = getattr(part, "fp32_precision", "none")
        if value not in _EXACT:
            yield f"torch.backends.{name}.fp32_precision", value
    if not on_gpu:
        yield from _variables()


def _variables() -> Iterator[tuple[str, str]]:
    """The variables of the environment by which oneDNN rounds float32, and their values."""
    for name in ONEDNN_VARIABLES:
        value = os.environ.get(name, "")
        if value.upper() not in ("", "STRICT"):
            yield name, value


def _answer(ask: Callable[[], Any], otherwise: Any) -> Any:
    """What torch answers; something else where it refuses, as the new settings were used."""
    try:
        return ask()
    except RuntimeError:
        return otherwise


def _backend(kind: str) -> Any:
    """The settings of the products of a device, or of convolutions, if torch has them."""
    backend = torch.backends.cuda.matmul if kind == "cuda" else None
    if kind in ("cpu", _CONVOLUTIONS):
        family = "matmul" if kind == "cpu" else "conv"
        backend = getattr(torch.backends.mkldnn, family, None)
    return backend if hasattr(backend, "fp32_precision") else None


def exact_products(device: torch.device) -> AbstractContextManager[object]:
    """Inside, products of float32 on this device are rounded as float32 is.

    The setting is one of the process: it is changed for other threads, too, until the last that
    needs it has left. While compiling it stays as it is.

    Example:
        >>> with exact_products(torch.device("cpu")):
        ...     rounds_products(torch.device("cpu"))
        False
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    return _exact(device.type, partial(rounds_products, device))


def exact_float32(device: torch.device) -> AbstractContextManager[object]:
    """Inside, float32 products on this device and convolutions on the CPU are in full float32.

    Convolutions on a GPU keep torch's setting, which may be TF32. Otherwise as `exact_products`.

    Example:
        >>> with exact_float32(torch.device("cpu")):
        ...     list(reduced_settings(torch.device("cpu")))
        []
    """
    if torch.compiler.is_compiling() or device.type != "cpu":
        return exact_products(device)
    convolutions = _exact(_CONVOLUTIONS, _rounds_convolutions)
    if next(_variables(), None):
        onednn = _exact(_ONEDNN, lambda: bool(torch.backends.mkldnn.enabled))
        convolutions = both(convolutions, onednn)
    return both(exact_products(device), convolutions)


@contextmanager
def both(
    first: AbstractContextManager[object], second: AbstractContextManager[object]
) -> Iterator[None]:
    """Inside two contexts."""
    with first, second:
        yield


def _rounds_convolutions() -> bool:
    backend = _backend(_CONVOLUTIONS)
    return backend is not None and backend.fp32_precision not in _EXACT


_lock = threading.Lock()
_users: dict[str, tuple[int, Any]] = {}  # how many of each kind, and the setting before


@contextmanager
def _exact(kind: str, rounds: Callable[[], bool]) -> Iterator[None]:
    """Inside, a setting is off, if it rounds or another thread has switched it off."""
    if not _enter(kind, rounds):
        yield
        return
    try:
        yield
    finally:
        _leave(kind)


def _enter(kind: str, rounds: Callable[[], bool]) -> bool:
    with _lock:
        count, before = _users.get(kind, (0, None))
        if count == 0 and not rounds():
            return False
        _users[kind] = (count + 1, before if count else _set(kind, None))
        return True


def _leave(kind: str) -> None:
    with _lock:
        count, before = _users.pop(kind)
        if count > 1:
            _users[kind] = (count - 1, before)
        else:
            _set(kind, before)


def _set(kind: str, value: Any) -> Any:
    """Change the setting, None for exact products; what it was before."""
    if kind == _ONEDNN:
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = bool(value)
        return before
    backend = _backend(kind)
    if backend is None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest" if value is None else value)
        return before
    before = backend.fp32_precision
    backend.fp32_precision = "ieee" if value is None else "none"
    # "none" inherits what is set for all backends; only what that does not give is set here.
    if value is not None and backend.fp32_precision != value:
        backend.fp32_precision = value
    return before
