"""Padding that keeps an orthogonal kernel an orthogonal (or 1-Lipschitz) operator."""

from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


class Pads(NamedTuple):
    """How an input is padded before a valid convolution; each pair is (rows, columns)."""

    extend: Pair
    left: Pair
    right: Pair


def make_pads(
    input_size: Pair, kernel_size: Pair, stride: Pair, padding: str | Pair, mode: str
) -> Pads:
    """The pads of a layer for one input size.

    `"same"` gives `ceil(n / stride)` outputs. Where the stride does not divide the size, a
    circular layer first extends the input by zeros to the next multiple: there is no orthogonal
    strided convolution on the torus of the size itself.

    Example:
        >>> make_pads((9, 8), (4, 4), (2, 2), "same", "circular")
        Pads(extend=(1, 0), left=(1, 1), right=(1, 1))
    """
    axes = range(2)
    extend = tuple(-input_size[i] % stride[i] for i in axes)
    if isinstance(padding, str):
        total = tuple(kernel_size[i] - stride[i] for i in axes)
        left = (total[0] // 2, total[1] // 2)
        return Pads((extend[0], extend[1]), left, (total[0] - left[0], total[1] - left[1]))
    if mode == "zeros":
        return Pads((0, 0), padding, padding)
    return Pads((extend[0], extend[1]), padding, padding)


def pad(x: Shaped[Tensor, "*b h w"], pads: Pads, mode: str) -> Shaped[Tensor, "*b h2 w2"]:
    """Apply the pads: zeros first for `extend`, then zeros or the other side of the torus.

    Example:
        >>> pad(torch.tensor([[[1.0, 2.0]]]), Pads((0, 0), (0, 1), (0, 1)), "circular")
        tensor([[[2., 1., 2., 1.]]])
    """
    (top, left), (bottom, right) = pads.left, pads.right
    if mode == "zeros":
        return _constant_pad(x, left, right + pads.extend[1], top, bottom + pads.extend[0])
    x = _constant_pad(x, 0, pads.extend[1], 0, pads.extend[0])
    return _wrap(_wrap(x, -2, top, bottom), -1, left, right)


def _constant_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    return F.pad(x, (left, right, top, bottom)) if left or right or top or bottom else x


def _wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Circular padding of one axis, by more than its length if need be."""
    length = x.shape[axis]
    if not before and not after:
        return x
    if before > length or after > length:
        index = torch.arange(-before, length + after, device=x.device) % length
        return x.index_select(axis, index)
    parts = (x.narrow(axis, length - before, before), x, x.narrow(axis, 0, after))
    return torch.cat([p for p in parts if p.shape[axis]], axis)
