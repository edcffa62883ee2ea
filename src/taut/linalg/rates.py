"""What a device is quick at: the one place where its rates decide how something is computed.

*Kernel or factors.* In training a circular convolution of c channels is applied as a kernel, or as
two-tap steps on the images. Counted for each position in float32, the steps do 0.63 of the kernel's
multiplications, and read and write 429 c bytes where the kernel takes 58 c. With R multiplications
and B bytes a second they are quicker if their own 429 c / B, which nothing hides, is below what
they save of `54 c^2 / R`. A CPU has caches that hold the images from step to step, so there the
multiplications decide. A GPU has `R / B` from 20 (float32) to 200 (TF32, bfloat16) a byte: steps
are ahead from 512 channels in float32, and never for narrower formats.

*Float64.* GPUs for computing multiply float64 at half the rate of float32 or better; all others at
1/32 or 1/64, or not at all. There, bases are computed in float32 with a correction.
"""

import functools
from typing import Literal

import torch
from torch import Tensor

from taut._torch_private import constant_when_compiled, inside_transform
from taut.linalg.precision import rounds_products

Double = Literal["fast", "slow", "none"]

DOUBLE_RATES: dict[str, Double] = {"cpu": "fast", "meta": "fast", "mps": "none"}
"""How quick float64 is on devices of one kind; asked of the device where they differ."""

_LEAST_CHANNELS = 512
# Compute capabilities with float64 at half the rate of float32 or better: P100, V100, A100, H100
# and H200, B200; not B300, which is (10, 3).
_FAST_DOUBLE = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))


def steps_are_quick(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Whether steps on the images can be quicker than a kernel, if they multiply less.

    Example:
        >>> steps_are_quick(torch.device("cpu"), torch.float32, 64)
        True
        >>> steps_are_quick(torch.device("cuda"), torch.float32, 64)
        False
    """
    if device.type in ("cpu", "meta"):
        return True
    strict = dtype == torch.float32 and not rounds_products(device)
    return strict and channels >= _LEAST_CHANNELS


def counts_launches(device: torch.device) -> bool:
    """Whether small operations cost what it takes to launch them, here and now.

    They do off the CPU; compilers and transforms of `torch.func` are given the plain operations.

    Example:
        >>> counts_launches(torch.device("cpu"))
        False
    """
    plain = device.type in ("cpu", "meta") or torch.compiler.is_compiling()
    return not plain and not inside_transform()


@constant_when_compiled  # or the compiler stops at the question
def double_rate(device: torch.device) -> Double:
    """How quick float64 is, beside float32.

    Example:
        >>> double_rate(torch.device("cpu")), double_rate(torch.device("mps"))
        ('fast', 'none')
    """
    known = DOUBLE_RATES.get(device.type)
    return _measured(device.type, device.index) if known is None else known


def wide_dtype(device: torch.device) -> torch.dtype:
    """Float64 where the device has it, else float32.

    Example:
        >>> wide_dtype(torch.device("mps"))
        torch.float32
    """
    return torch.float32 if double_rate(device) == "none" else torch.float64


def wide(x: Tensor) -> Tensor:
    """In double precision, real or complex, where the device has it; else in single.

    Example:
        >>> wide(torch.ones(1, dtype=torch.complex64)).dtype
        torch.complex128
    """
    dtype = wide_dtype(x.device)
    if x.is_complex():
        return x.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return x.to(dtype)


@functools.cache
def _measured(kind: str, index: int | None) -> Double:
    if kind not in ("cuda", "xpu"):
        return "fast"
    if kind == "xpu":
        properties = torch.xpu.get_device_properties(index)
        return "fast" if getattr(properties, "has_fp64", False) else "none"
    if torch.version.hip is not None:  # Instinct; Radeon multiplies at 1/16
        name = torch.cuda.get_device_properties(index).gcnArchName
        return "fast" if name.startswith("gfx9") else "slow"
    return "fast" if torch.cuda.get_device_capability(index) in _FAST_DOUBLE else "slow"
