"""Where the windows of a circular convolution lie, and images seen from them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.steps import turned


class Windows(NamedTuple):
    """Windows of a circular convolution; tap t of window j reads `stride j + dilation t - left`.

    Attributes:
        stride: positions from one window to the next, per axis; divides the size of the image.
        dilation: positions from one tap to the next, per axis.
        left: positions of the first window before the image, per axis.
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    left: tuple[int, ...]


def downsampled(
    x: Float[Tensor, "b *grid c"], windows: Windows, patch: tuple[int, ...]
) -> Float[Tensor, "b *coarse c2"]:
    """What the first taps of each window read, as channels: `patch` taps an axis.

    The channels of the result are pairs (channel, tap). For taps that no other window reads, a
    permutation of the image or of a part of it.
    """
    for axis, (s, d, left, e) in enumerate(zip(*windows, patch, strict=True), 1):
        n = x.shape[axis]
        if d == 1 or e == 1:
            x = turned(x, axis, left).unflatten(axis, (n // s, s))
            if e < s:  # else a gradient would be copied into zeros for nothing
                x = x.narrow(axis + 1, 0, e)
        else:
            x = x.index_select(axis, _read(n, s, d, left, e, x.device)).unflatten(axis, (-1, e))
        x = x.movedim(axis + 1, -1)
    return x.flatten(len(patch) + 1)


def upsampled(
    y: Float[Tensor, "b *coarse c2"], windows: Windows, patch: tuple[int, ...]
) -> Float[Tensor, "b *grid c"]:
    """The adjoint of :func:`downsampled`: zeros where no window reads."""
    x = y.unflatten(-1, (-1, *patch))
    for axis in range(len(patch), 0, -1):
        s, d, left, e = (values[axis - 1] for values in (*windows, patch))
        x = x.movedim(-1, axis + 1)
        n = x.shape[axis] * s
        if d == 1 or e == 1:
            if e < s:
                rest = list(x.shape)
                rest[axis + 1] = s - e
                x = torch.cat((x, x.new_zeros(rest)), axis + 1)
            x = turned(x.flatten(axis, axis + 1), axis, -left)
        else:
            size, index = list(x.shape), _read(n, s, d, left, e, x.device)
            size[axis : axis + 2] = [n]
            x = x.new_zeros(size).index_add(axis, index, x.flatten(axis, axis + 1))
    return x


def _read(n: int, s: int, d: int, left: int, e: int, device: torch.device) -> Tensor:
    """Positions that the first e taps of the windows read, window by window."""
    windows = s * torch.arange(n // s, device=device) - left
    return ((windows[:, None] + d * torch.arange(e, device=device)) % n).flatten()
