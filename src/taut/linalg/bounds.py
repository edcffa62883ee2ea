r"""Upper bounds of the operator norm of convolutions and matrices.

`conv_norm_bound` is the one door: everything that enters a certificate about a linear layer comes
from it. Proofs are in real arithmetic; `_OUTWARD` covers the float64 rounding of what is computed
(backward stable eigenvalues of matrices of at most a few thousand rows: below 1e-11).
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.embedding import embedding
from taut.linalg.operators import ConvOperator, polyphase, symbols
from taut.linalg.rounding import up_product, up_root

__all__ = ["NormBound", "conv_norm_bound"]

_OUTWARD = 1 + 1e-10
_SIZE_FREE_EXCESS = 1e-4


@final
@dataclass(frozen=True)
class NormBound:
    """A proven upper bound `value` and, in words, its `proof`.

    >>> NormBound(1.0, "permutation").value
    1.0
    """

    value: float
    proof: str


def conv_norm_bound(op: ConvOperator) -> NormBound:
    r"""Upper bound of the l2 operator norm of a convolution or matrix.

    1. The operator is a factor (see `embedding`) times stride-1 convolutions of the polyphase
       kernel on a torus, one per group, of which the largest counts.
    2. Kernels that are nearly a multiple of an orthogonal one: `_size_free`, cheap, any torus.
    3. Otherwise the largest spectral norm over the frequencies of that torus.

    Args:
        op: the operator, with its input size.

    Returns:
        The bound and how it was proven; 0 for a zero kernel.

    Example:
        >>> from taut.linalg.operators import Padding
        >>> conv = ConvOperator(torch.ones(1, 1, 3), (8,), padding=Padding("circular", (1,), (1,)))
        >>> bound = conv_norm_bound(conv)
        >>> round(bound.value, 6), bound.proof
        (3.0, 'spectral norm at all 8 frequencies of the torus')
    """
    largest = op.kernel.abs().max().item() if op.kernel.numel() else 0.0
    if largest == 0.0:
        return NormBound(0.0, "zero kernel")
    # Exact, so that no square of an entry overflows or underflows.
    scale = math.ldexp(1.0, min(1023, math.frexp(largest)[1]))
    torus, stride, squared = embedding(op)
    factor = up_root(float(squared))
    kernels = [kernel / scale for kernel in op.group_kernels() if bool(kernel.any())]
    bounds = [_stride_one_bound(polyphase(k, stride, op.dilation), torus) for k in kernels]
    bound = max(bounds, key=lambda b: b.value)
    proof = bound.proof + (f", largest of {op.groups} groups" if op.groups > 1 else "")
    if factor > 1:
        proof += f", times {factor:.4g} for the {op.padding.mode} padding"
    return NormBound(up_product(up_product(bound.value, scale), factor), proof)


def _stride_one_bound(kernel: Tensor, torus: tuple[int, ...]) -> NormBound:
    if torus:
        value, excess = _size_free(kernel)
        if excess < _SIZE_FREE_EXCESS:
            return NormBound(value * _OUTWARD, "defect from orthogonality, any input size")
    value = _torus_norm(kernel, torus)
    if not torus:
        return NormBound(value * _OUTWARD, "spectral norm of the matrix")
    where = f"spectral norm at all {math.prod(torus)} frequencies of the torus"
    return NormBound(value * _OUTWARD, where)


def _size_free(kernel: Float[Tensor, "o i ..."]) -> tuple[float, float]:
    r"""Bound of the norm on every torus from the defect :math:`E = T T^* - \delta I`.

    Returns the bound and its excess over :math:`\sqrt\delta`, which the norm on the infinite
    lattice is at least: the mean eigenvalue of :math:`T T^*` is :math:`\delta`.

    :math:`v^* \hat E(\omega) v` is a real trigonometric polynomial of degree k-1 on each axis. On
    a grid of N points a period its maximum modulus is at least :math:`\cos(\pi \deg / N)` of the
    supremum (M. Riesz: near a maximum T it is >= T cos(deg s), and a grid point is within
    :math:`\pi/N`; Ehlich and Zeller (1964)), once per axis. Applied to the defect, not to the
    norm, the factor costs next to nothing. The Frobenius norm bounds the spectral one.
    """
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.transpose(0, 1)  # the adjoint, up to a reflection of the frequencies
    degrees = [k - 1 for k in kernel.shape[2:]]
    grid = tuple(4 * d + 4 if d else 1 for d in degrees)
    delta = kernel.square().sum().item() / kernel.shape[0]
    shift = delta * torch.eye(kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
    defect = 0.0
    for matrices, _ in symbols(kernel, grid):
        error = matrices @ matrices.mH - shift
        defect = max(defect, error.flatten(1).norm(dim=1).max().item())
    for d, n in zip(degrees, grid, strict=True):
        defect /= math.cos(math.pi * d / n)
    value = math.sqrt(delta + defect)
    return value, value / math.sqrt(delta) - 1


def _torus_norm(kernel: Float[Tensor, "o i ..."], torus: tuple[int, ...]) -> float:
    """Largest spectral norm over the frequencies; the Gram matrix keeps the digits of the top."""
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.transpose(0, 1)
    top = 0.0
    for matrices, _ in symbols(kernel, torus):
        top = max(top, torch.linalg.eigvalsh(matrices @ matrices.mH)[:, -1].max().item())
    return math.sqrt(top)
