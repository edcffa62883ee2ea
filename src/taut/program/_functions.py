"""Calls of functions of torch: what they are called, and which tensors go in and come out."""

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "QUERIES",
    "key_of",
    "results_of",
    "storage_of",
    "tensors_in",
    "title_of",
    "wraps_too_often",
]

QUERIES = {
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "ndim", "dtype", "device", "is_cuda", "is_mps", "is_sparse", "is_quantized",
        "is_nested", "is_meta", "layout", "itemsize", "is_mkldnn", "is_xpu", "is_xla",
        "is_sparse_csr",
    )),
    *(getattr(Tensor, name) for name in (
        "size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex",
        "element_size", "get_device", "is_signed",
    )),
    torch.numel, torch.is_floating_point, torch.is_complex, torch.is_tensor,
}  # fmt: skip
"""What asks for shapes and types only: the answer does not depend on the values."""


def title_of(func: Any) -> str:
    """What a function of torch is called by those who write it."""
    if isinstance(func, torch._ops.OpOverload):
        return func._opname
    owner = getattr(func, "__self__", None)
    name = getattr(func, "__name__", str(func))
    return str(getattr(owner, "__name__", name)) if name in ("__get__", "__set__") else name


def wraps_too_often(error: Exception, image: Tensor | None = None, pads: Any = ()) -> str:
    """The reason of an error of torch about circular padding, in our words; "" for other errors.

    Example:
        >>> error = RuntimeError("Padding value causes wrapping around more than once.")
        >>> wraps_too_often(error, torch.zeros(1, 1, 2), (3, 3))[:64]
        'its circular padding (3, 3) is larger than the image of (2,), wh'
    """
    if "wrapping around more than once" not in str(error):
        return ""
    padding = f"padding {tuple(pads)}" if pads else "padding"
    size = "image" if image is None else f"image of {tuple(image.shape[2:])}"
    return (
        f"its circular {padding} is larger than the {size}, which layers of torch wrap round "
        "once; take larger images"
    )


def key_of(func: Any) -> Any:
    if isinstance(func, torch._ops.OpOverload):
        return f"aten::{func._opname}" if func.namespace == "aten" else func
    return func


def tensors_in(value: Any) -> list[Tensor]:
    """Tensors among the arguments of a call."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_in(part)]
    return []


def results_of(result: Any) -> list[Any]:
    if isinstance(result, tuple | list):
        return list(result)
    return [result]


def storage_of(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
