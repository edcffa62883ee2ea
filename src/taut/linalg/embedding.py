"""Where a convolution sits in one on a torus, whose norm then bounds its own."""

import math

from taut.linalg.operators import ConvOperator, padded_index

__all__ = ["embedding"]


def embedding(op: ConvOperator) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    r"""Torus of the polyphase kernel, stride, and q with norm(op)^2 <= q norm(torus)^2.

    *Zeros.* Embed the input in a torus of N >= n + max(left, right) positions. A window reads
    positions -left .. n + right - 1 of the padded input; those outside 0 .. n-1 wrap to n .. N-1,
    which are zero. So each output is an output of the torus, and two that coincide there are
    windows of zeros but for one: op = restrict * torus * embed, q = 1. N = n is *not* enough.

    *Circular.* N = n. Outputs sit at stride * j; they are outputs of stride g = gcd(stride, N),
    and j, j' coincide iff N / g divides j - j'. Each is repeated at most ceil(out g / N) times.

    *Reflect, replicate.* The padding is a 0/1 matrix with one 1 a row, a Kronecker product over
    the axes: its squared norm is the product of the largest column counts. Then as zeros.

    Example:
        >>> import torch
        >>> from taut.linalg.operators import Padding
        >>> kernel = torch.ones(1, 1, 3)
        >>> embedding(ConvOperator(kernel, (8,), padding=Padding("zeros", (1,), (1,))))
        ((9,), (1,), 1)
        >>> embedding(ConvOperator(kernel, (8,), padding=Padding("circular", (1,), (1,))))
        ((8,), (1,), 1)
    """
    torus, strides, squared = [], [], 1
    mode, pad = op.padding.mode, op.padding
    for n, s, out, left, right in zip(
        op.extended_size, op.stride, op.output_size, pad.left, pad.right, strict=True
    ):
        if mode == "circular":
            g = math.gcd(s, n)
            squared *= -(-out * g // n)
            torus.append(n // g)
            strides.append(g)
            continue
        size = n + max(left, right)
        if mode != "zeros":
            squared *= int(padded_index(n, left, right, mode).bincount().max())
            size = n + left + right
        torus.append(-(-size // s))
        strides.append(s)
    return tuple(torus), tuple(strides), squared
