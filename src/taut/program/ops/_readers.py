"""Nodes of ONNX that are functions of one value, which taut itself does not write."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.program._op import reads
from taut.program.ops._numbers import as_tensor, elementwise

__all__: list[str] = []

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)

reads("Neg")(elementwise(torch.neg, lambda a: -a))
reads("Gelu")(lambda x, *, approximate="none": F.gelu(x, approximate=approximate))


@reads("Selu")
def _selu(x: Tensor, *, alpha: float = _SELU[0], gamma: float = _SELU[1]) -> Tensor:
    if max(abs(alpha - _SELU[0]), abs(gamma - _SELU[1])) < 1e-6:
        return F.selu(x)
    return gamma * F.elu(x, alpha)


@reads("PRelu")
def _prelu(x: Tensor, slope: Any) -> Tensor:
    """One slope, or one for each channel: ONNX broadcasts it from the last axis."""
    slope = as_tensor(slope)
    sizes = [1] * (x.dim() - slope.dim()) + list(slope.shape)
    if len(sizes) != x.dim() or any(n > 1 for axis, n in enumerate(sizes) if axis != 1):
        raise ValueError("its slopes must be those of the channels")
    return F.prelu(x, slope.flatten())


@reads("InstanceNormalization")
def _instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)
