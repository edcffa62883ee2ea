r"""Exact singular values of convolution operators, in float64.

On a torus a convolution is block diagonal in the Fourier basis (Sedghi, Gupta, Long (2019), *The
Singular Values of Convolutional Layers*, theorem 6; arXiv:1805.10408). Everything else (zeros at
the border, sizes that the stride does not divide) has no such basis and is written out densely.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.operators import ConvOperator, polyphase, symbols

__all__ = ["DENSE_LIMIT", "conv_singular_values", "dense_matrix", "is_torus"]

DENSE_LIMIT = 1 << 24
"""Entries (outputs times inputs) of the largest operator that is written out densely."""


def conv_singular_values(op: ConvOperator) -> Float[Tensor, " s"]:
    r"""All min(outputs, inputs) singular values of the operator, descending.

    On a torus (see `is_torus`): stride by polyphase, then one small SVD per frequency and group.
    Otherwise the SVD of the dense operator, group by group; never of a Gram matrix, which would
    lose half of the digits of the small values.

    Args:
        op: the operator, with its input size.

    Returns:
        float64 tensor on the kernel's device.

    Raises:
        ValueError: if the operator is not on a torus and has more than `DENSE_LIMIT` entries.

    Example:
        >>> from taut.linalg.operators import Padding
        >>> op = ConvOperator(torch.ones(1, 1, 2), (4,), padding=Padding("circular", (0,), (1,)))
        >>> conv_singular_values(op).round(decimals=4).abs().tolist()
        [2.0, 1.4142, 1.4142, 0.0]
    """
    if is_torus(op):
        values = torch.cat([_torus_values(kernel, op) for kernel in op.group_kernels()])
    else:
        _check_limit(*(side // op.groups for side in op.shape))
        blocks = (_group(op, kernel) for kernel in op.group_kernels())
        values = torch.cat([torch.linalg.svdvals(dense_matrix(block)) for block in blocks])
    return values.sort(descending=True).values


def is_torus(op: ConvOperator) -> bool:
    """Whether the operator is a convolution on a torus, each output position computed once.

    Example:
        >>> is_torus(ConvOperator(torch.ones(1, 1, 2), (4,)))
        False
        >>> is_torus(ConvOperator(torch.ones(1, 1, 2), (4,), stride=(2,)))
        True
    """
    circular = op.padding.mode == "circular"
    axes = zip(
        op.input_size, op.stride, op.output_size, op.padded_size, op.padding.extend, strict=True
    )
    # Without padding, taps that stay inside a stride never look beyond the end.
    return all(
        n % s == 0 and out * s == n and extend == 0 and (circular or padded == n)
        for n, s, out, padded, extend in axes
    )


def dense_matrix(op: ConvOperator) -> Float[Tensor, "m n"]:
    """The operator as a dense matrix: its action on each unit vector.

    Raises:
        ValueError: if it would have more than `DENSE_LIMIT` entries.

    Example:
        >>> dense_matrix(ConvOperator(torch.tensor([[[1.0, 2.0]]]), (3,)))
        tensor([[1., 2., 0.],
                [0., 1., 2.]], dtype=torch.float64)
    """
    m, n = op.shape
    _check_limit(m, n)
    columns = torch.eye(n, dtype=torch.float64, device=op.kernel.device)
    return op(columns.reshape(n, op.in_channels, *op.input_size)).reshape(n, m).T


def _check_limit(m: int, n: int) -> None:
    if m * n > DENSE_LIMIT:
        raise ValueError(
            "`input_size` must be smaller for an exact spectrum off the torus: the dense "
            f"operator may have at most {DENSE_LIMIT} entries; got {m} x {n} = {m * n}."
        )


def _group(op: ConvOperator, kernel: Tensor) -> ConvOperator:
    return ConvOperator(kernel, op.input_size, op.stride, op.dilation, 1, op.padding)


def _torus_values(kernel: Tensor, op: ConvOperator) -> Tensor:
    phases = polyphase(kernel, op.stride, op.dilation)
    values = [
        torch.linalg.svdvals(matrices).repeat_interleave(counts.to(matrices.device), dim=0)
        for matrices, counts in symbols(phases, op.output_size)
    ]
    return torch.cat(values).flatten()
