r"""Exact singular values of convolution operators, in float64.

On a torus a convolution is block diagonal in the Fourier basis (Sedghi, Gupta, Long (2019), *The
Singular Values of Convolutional Layers*, theorem 6; arXiv:1805.10408). Everything else (zeros at
the border, sizes that the stride does not divide) has no such basis and is written out densely.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from taut.linalg.embedding import polyphase
from taut.linalg.geometry import AbstractConvolution
from taut.linalg.twiddles import half_plane

_CHUNK_BYTES = 1 << 26


def conv_singular_values(op: AbstractConvolution) -> Float[Tensor, " s"]:
    r"""All min(outputs, inputs) singular values of the operator, descending.

    On a torus: stride by polyphase, then one small SVD per frequency and group.
    Otherwise the SVD of the dense operator, group by group; never of a Gram matrix, which would
    lose half of the digits of the small values.
    """
    if op.is_torus:
        values = torch.cat([_torus_values(kernel, op) for kernel in op.group_kernels()])
    else:
        blocks = [replace(op, kernel=kernel, groups=1) for kernel in op.group_kernels()]
        values = torch.cat([torch.linalg.svdvals(block.dense()) for block in blocks])
    return values.sort(descending=True).values


def _torus_values(kernel: Tensor, op: AbstractConvolution) -> Tensor:
    phases = polyphase(kernel, op.stride, op.dilation)
    values = [
        torch.linalg.svdvals(matrices).repeat_interleave(counts.to(matrices.device), dim=0)
        for matrices, counts in symbols(phases, op.output_size)
    ]
    return torch.cat(values).flatten()


def symbols(
    kernel: Float[Tensor, "o i ..."], torus: tuple[int, ...]
) -> Iterator[tuple[Complex[Tensor, "f o i"], Tensor]]:
    r"""The matrices that a stride-1 convolution on a torus applies at each frequency, in pieces.

    :math:`\hat K(\omega) = \sum_t K_t e^{i \omega t}`; a kernel longer than the torus wraps round.
    Real kernels give conjugate matrices at :math:`\pm\omega`, hence equal singular values: those of
    the half plane are given, with how often each counts. Angles are reduced exactly, as integers.
    """
    grid, counts = half_plane(torus)
    size = grid.new_tensor(torus)
    places = torch.ones(kernel.shape[2:], device="cpu").nonzero()
    flat = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    step = max(1, _CHUNK_BYTES // (16 * max(1, flat.shape[0], places.numel())))
    for piece, count in zip(grid.split(step), counts.split(step), strict=True):
        phases = (piece[:, None] * places % size).to(torch.float64) / size
        angle = 2 * torch.pi * phases.sum(-1).to(kernel.device)
        matrices = torch.complex(angle.cos() @ flat.T, angle.sin() @ flat.T)
        yield matrices.unflatten(1, kernel.shape[:2]), count
