"""Sizes of a series layer, and how inputs of other sizes become square: by folding and zeros."""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional as F

from taut._arguments import check_image
from taut.linalg.embedding import phases_to_channels
from taut.nn._padding import Size
from taut.nn.series._series import SeriesSteps, series


@final
class SeriesSizes(NamedTuple):
    """What decides what a series layer does, but for its kernel and bias."""

    in_channels: int
    out_channels: int
    stride: Size
    steps: SeriesSteps

    @property
    def folded(self) -> int:
        """Channels of the input after downsampling."""
        return self.in_channels * math.prod(self.stride)

    @property
    def channels(self) -> int:
        """Channels of the square operator."""
        return max(self.folded, self.out_channels)


def applied(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: SeriesSizes) -> Tensor:
    """The layer, for one image or a batch."""
    axes = len(sizes.stride)
    check_image(x, sizes.in_channels, axes)
    if x.dim() == axes + 1:
        return applied(x[None], weight, bias, sizes)[0]
    groups, channels = sizes.steps.groups, sizes.channels
    x = _widened(_downsampled(x, sizes.stride), channels, groups)
    bias = None if bias is None else _widened(bias[None], channels, groups)[0]
    return _narrowed(series(x, weight, bias, sizes.steps), sizes.out_channels, groups)


def _downsampled(x: Tensor, stride: Size) -> Tensor:
    """Blocks of the image into channels, behind zeros up to a multiple of the stride."""
    if all(s == 1 for s in stride):
        return x
    missing = [-n % s for n, s in zip(x.shape[2:], stride, strict=True)]
    if any(missing):
        x = F.pad(x, [n for size in missing[::-1] for n in (0, size)])
    # A view of one position has strides for which the gradient of torch's convolution fails.
    return phases_to_channels(x, list(stride)).clone(memory_format=torch.contiguous_format)


def _widened(x: Tensor, channels: int, groups: int) -> Tensor:
    """Zero channels behind those of each group."""
    missing = (channels - x.shape[1]) // groups
    if not missing:
        return x
    sides = [0, 0] * (x.dim() - 2) + [0, missing]
    if groups == 1:
        return F.pad(x, sides)
    return F.pad(x.unflatten(1, (groups, -1)), sides).flatten(1, 2)


def _narrowed(x: Tensor, channels: int, groups: int) -> Tensor:
    """The first channels of each group."""
    if x.shape[1] == channels:
        return x
    if groups == 1:
        return x[:, :channels]
    return x.unflatten(1, (groups, -1))[:, :, : channels // groups].flatten(1, 2)
