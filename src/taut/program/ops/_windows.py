"""Windows of convolutions and pools in ONNX files: their pads and steps."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["Pads", "shared_out", "sides_of", "steps_of"]

Pads = tuple[list[int], list[int]]


def sides_of(pads: Any, x: Tensor, windows: Sequence[int], steps: Sequence[int],
             auto_pad: str) -> Pads:  # fmt: skip
    """Pads of a window operation, before and behind each axis; SAME gives a step each a window."""
    axes = len(windows)
    pads = [0] * (2 * axes) if pads is None else pads
    if len(pads) != 2 * axes or min(pads) < 0:
        raise ValueError("its pads must be two numbers for each axis, none below 0")
    if auto_pad in ("NOTSET", "VALID"):
        return ([0] * axes, [0] * axes) if auto_pad == "VALID" else (pads[:axes], pads[axes:])
    sizes = zip(x.shape[2:], windows, steps, strict=True)
    return shared_out([max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in sizes], auto_pad)


def shared_out(totals: Sequence[int], auto_pad: str) -> Pads:
    """Pads shared out to both sides; of odd ones SAME_UPPER puts the one more behind."""
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"`auto_pad` must be one of ONNX; got {auto_pad}")
    less, more = [n // 2 for n in totals], [n - n // 2 for n in totals]
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


def steps_of(weight: Tensor, kernel_shape: Any, strides: Any, dilations: Any) -> tuple[list, list]:
    """Strides, and sizes of windows with their gaps; refuses what does not fit the kernel."""
    axes, kernel = weight.dim() - 2, list(weight.shape[2:])
    strides, gaps = strides or [1] * axes, dilations or [1] * axes
    if axes not in (1, 2, 3) or list(kernel_shape or kernel) != kernel:
        raise ValueError("its kernel does not have the stated shape")
    return strides, [d * (k - 1) + 1 for k, d in zip(kernel, gaps, strict=True)]
