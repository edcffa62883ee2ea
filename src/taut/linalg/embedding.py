"""Where a convolution sits in one on a torus, whose norm then bounds its own."""

import math

from jaxtyping import Float
from torch import Tensor

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
    if all(s == 1 for s in stride):
        return kernel
    axes = len(stride)
    # (o, c, *stride, *taps) -> (o, c, taps, stride, taps, stride, ...)
    parts = kernel.reshape(len(kernel), -1, *stride, *kernel.shape[2:])
    pairs = [d for i in range(axes) for d in (2 + axes + i, 2 + i)]
    size = (k * s for k, s in zip(kernel.shape[2:], stride, strict=True))
    return parts.permute(0, 1, *pairs).reshape(*parts.shape[:2], *size)


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
