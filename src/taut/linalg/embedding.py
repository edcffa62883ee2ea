"""Where a convolution sits in one on a torus, whose norm then bounds its own."""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.geometry import AbstractConvolution
from taut.linalg.padding import padded_index


def polyphase(
    kernel: Float[Tensor, "o i ..."], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Float[Tensor, "o i2 ..."]:
    r"""The stride-1, dilation-1 kernel that does the same on the pixel-unshuffled input.

    Dilation stuffs zeros between the taps. With tap :math:`q = s t + a` and input position
    :math:`s u + a`, output :math:`j` reads :math:`u = j + t` of phase :math:`a`: channels become
    (channel, phase) pairs, and unshuffling permutes the input, so that the norm stays.
    """
    for axis, (s, d) in enumerate(zip(stride, dilation, strict=True), start=2):
        kernel = kernel.movedim(axis, -1)
        k = kernel.shape[-1]
        taps = kernel.new_zeros(*kernel.shape[:-1], -(-(d * (k - 1) + 1) // s) * s)
        taps[..., : d * (k - 1) + 1 : d] = kernel
        taps = taps.unflatten(-1, (-1, s))  # (o, i, ..., t, a)
        kernel = taps.movedim(-1, 2).flatten(1, 2).movedim(-1, axis)
    return kernel


def interleaved(kernel: Float[Tensor, "o i2 ..."], stride: tuple[int, ...]) -> Tensor:
    """The strided kernel of which this is the stride-1 kernel on the unshuffled input.

    The inverse of :func:`polyphase` without dilation, for kernel sizes that the stride divides.
    """
    return channels_to_phases(kernel, list(stride))


# No shapes in these annotations: TorchScript reads them.
def phases_to_channels(x: Tensor, factor: list[int]) -> Tensor:
    """Move each block of positions into channels, in the order of `torch.nn.PixelUnshuffle`."""
    d = len(factor)
    if factor == [1] * d:
        return x
    if d == 2 and factor[0] == factor[1] and not _is_empty(x):
        return F.pixel_unshuffle(x, factor[0])
    for i in range(d):  # the last axis first: (..., c, n1 / f1, f1, n2 / f2, f2)
        x = x.unflatten(-1 - 2 * i, [-1, factor[d - 1 - i]])
    x = x.movedim([2 * i + 1 - 2 * d for i in range(d)], [i - 2 * d for i in range(d)])
    return x.flatten(-2 * d - 1, -d - 1)  # (..., c f1 f2, n1 / f1, n2 / f2)


def channels_to_phases(x: Tensor, factor: list[int]) -> Tensor:
    """The inverse of :func:`phases_to_channels`, in the order of `torch.nn.PixelShuffle`."""
    d = len(factor)
    if factor == [1] * d:
        return x
    if d == 2 and factor[0] == factor[1] and not _is_empty(x):
        return F.pixel_shuffle(x, factor[0])
    x = x.unflatten(-d - 1, [-1] + factor)  # noqa: RUF005
    # (..., c, f1, f2, n1, n2) to (..., c, n1, f1, n2, f2)
    x = x.movedim([i - 2 * d for i in range(d)], [2 * i + 1 - 2 * d for i in range(d)])
    for i in range(d):
        x = x.flatten(-2 - i, -1 - i)
    return x


def _is_empty(x: Tensor) -> bool:
    """Whether a tensor has no entries: torch's functions leave such a one as it is."""
    return isinstance(x, Tensor) and x.numel() == 0  # torch.fx gives what is no tensor


def embedding(op: AbstractConvolution) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    r"""Torus of the polyphase kernel, stride, and q with norm(op)^2 <= q norm(torus)^2.

    *Zeros.* Embed the input in a torus of N >= n + max(left, right) positions. A window reads
    positions -left .. n + right - 1 of the padded input; those outside 0 .. n-1 wrap to n .. N-1,
    which are zero. So each output is an output of the torus, and two that coincide there are
    windows of zeros but for one: op = restrict * torus * embed, q = 1. N = n is *not* enough.

    *Circular.* N = n. Outputs sit at stride * j; they are outputs of stride g = gcd(stride, N),
    and j, j' coincide iff N / g divides j - j'. Each is repeated at most ceil(out g / N) times. An
    axis without padding is as with zeros.

    *Reflect, replicate.* The padding is a 0/1 matrix with one 1 a row, a Kronecker product over
    the axes: its squared norm is the product of the largest column counts. Then as zeros.
    """
    torus, strides, squared = [], [], 1
    mode, pad = op.padding.mode, op.padding
    for n, s, out, left, right in zip(
        op.extended_size, op.stride, op.output_size, pad.left, pad.right, strict=True
    ):
        if mode == "circular" and (left or right):
            g = math.gcd(s, n)
            squared *= -(-out * g // n)
            torus.append(n // g)
            strides.append(g)
            continue
        size = n + max(left, right)
        if mode in ("reflect", "replicate"):
            squared *= int(padded_index(n, left, right, mode).bincount().max())
            size = n + left + right
        torus.append(-(-size // s))
        strides.append(s)
    return tuple(torus), tuple(strides), squared
