r"""Upper bounds of the norm of convolutions and matrices: the proofs behind `ConvOperator`.

Everything that enters a certificate about a linear layer comes from `conv_norm_bound` (norms) and
`abs_norm_bound` (rounding). `tap_norm_bound` and `sampled_norm_bound` take less time on large
images; `tight_norm_bound` takes more to come nearer to the norm where zeros are padded. Their
values are proofs in float64 arithmetic, rounding included: `docs/proofs.md` has the theorems.
Trusted are + - * / and roots, rounded to nearest, and products of matrices by those in any order;
eigenvalues, factorisations, transforms and library functions only give hints.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.border import border_bound
from taut.linalg.cholesky import torus_bound
from taut.linalg.embedding import embedding, polyphase
from taut.linalg.geometry import AbstractConvolution
from taut.linalg.gram import GramKernel, gram_kernel
from taut.linalg.operator import DENSE_PROOF, NormBound, tightened
from taut.linalg.rounding import (
    collatz_wielandt,
    power_of_two,
    refuse_flushing,
    up_product,
    up_root,
)
from taut.linalg.sampling import sampled_bound, sampling_grid, tap_bound
from taut.linalg.size_free import defect_bound, nearly_orthogonal

_EXCESS = 2e-4
"""Relative excess of a squared norm up to which the size-free bound is tight enough."""


def conv_norm_bound(op: AbstractConvolution) -> NormBound:
    r"""Upper bound of the l2 operator norm of a convolution or matrix.

    1. The operator is a factor (see `embedding`) times stride-1 convolutions of the polyphase
       kernel on a torus, one per group, of which the largest counts.
    2. Kernels that are nearly a multiple of an orthogonal one: `defect_bound`, cheap, any torus.
    3. Otherwise `torus_bound`: a Cholesky factor at each frequency of that torus.

    Guarantee: not below the norm of the operator with exactly these weights, in real arithmetic.
    Cost: one product of matrices per shift, and for 3. about four per frequency.
    """
    return _on_torus(op, _largest_square)


def sampled_norm_bound(op: AbstractConvolution, density: int) -> NormBound:
    r"""Like `conv_norm_bound`, from fewer frequencies where the torus has many: `sampled_bound`.

    Guarantee: as of `conv_norm_bound`.
    Cost: along an axis at most `density` frequencies for each degree of the Gram kernel.
    """

    def square(kernel: Tensor, torus: tuple[int, ...]) -> tuple[float, str]:
        gram = gram_kernel(kernel)
        orthogonal = _orthogonal_square(gram)
        if orthogonal is not None:
            return orthogonal
        grid = sampling_grid(gram.degrees, torus, density)
        return sampled_bound(gram, torus, grid), f"samples at {math.prod(grid)} frequencies"

    return _on_torus(op, square)


def tap_norm_bound(op: AbstractConvolution) -> NormBound:
    r"""A bound of the norm at the cost of a matrix: `tap_bound`.

    Guarantee: as of `conv_norm_bound`, and at most the root of the number of taps times the norm on
        an infinite lattice.
    Cost: two products of matrices, as large as the kernel.
    """

    def square(kernel: Tensor, torus: tuple[int, ...]) -> tuple[float, str]:
        return tap_bound(kernel), "taps side by side"

    return _on_torus(op, square)


def _on_torus(
    op: AbstractConvolution, square: Callable[[Tensor, tuple[int, ...]], tuple[float, str]]
) -> NormBound:
    """A bound from that of the squared norm of stride-1 kernels on a torus."""
    refuse_flushing()
    scale = power_of_two(op.kernel)
    if scale == 0.0:
        return NormBound(0.0, "zero kernel")
    op = distinct(op)
    torus, stride, squared = embedding(op)
    kernel, torus = _stride_one(op, op.kernel / scale, stride, torus)
    value, proof = square(kernel, torus)
    value = up_product(up_root(value), scale, up_root(float(squared)))
    if not math.isfinite(value):
        raise ValueError("`kernel` must be smaller: the bound of its norm overflows.")
    proof += f", largest of {op.groups} groups" if op.groups > 1 else ""
    if squared > 1:
        proof += f", times {math.sqrt(squared):.4g} for the {op.padding.mode} padding"
    return NormBound(value, proof)


def distinct(op: AbstractConvolution) -> AbstractConvolution:
    """One group where all are alike."""
    kernels = op.kernel.unflatten(0, (op.groups, -1))
    alike = op.groups > 1 and bool((kernels == kernels[:1]).all())
    return replace(op, kernel=kernels[0], groups=1) if alike else op


def tight_norm_bound(op: AbstractConvolution) -> NormBound:
    r"""`conv_norm_bound`, or less where padding makes it looser than the norm.

    Small operators are bounded as dense matrices: with zero padding their entries are those of the
    kernel, with copies around the image they are sums of these. Larger ones with zero padding are
    bounded by a witness, see `border_bound`; nearly orthogonal ones need neither.

    Guarantee: not below the norm of the operator with exactly these weights, in real arithmetic.
    Cost: an application of the operator and of its adjoint for each singular value of the torus
        above the norm, a few hundred times; layers too large for that keep their `conv_norm_bound`.
    """
    op, loose = distinct(op), conv_norm_bound(op)
    if op.padding.mode != "zeros":
        return _tightened_groups(op, loose) if embedding(op)[2] > 1 else loose
    if is_settled(loose):
        return loose
    scale = power_of_two(op.kernel)
    op = replace(op, kernel=op.kernel / scale)
    if op.input_size and math.prod(op.shape) <= DENSE_PROOF * op.groups**2:
        bound, proof = _dense_bound(op), "spectral norm of the dense operator"
    else:
        bound, proof = (
            border_bound(op, loose.value / scale),
            "spectral norm with the zeros at the border",
        )
    value = math.inf if bound is None else up_product(bound, scale)
    return NormBound(value, proof) if value < loose.value else loose


def is_settled(bound: NormBound) -> bool:
    """Whether no other proof gives less: for zeros and nearly orthogonal kernels."""
    return bound.value == 0.0 or "any input size" in bound.proof


def _tightened_groups(op: AbstractConvolution, loose: NormBound) -> NormBound:
    """By the dense matrix of each group, its entries rounded as `tightened` says."""
    if op.groups == 1:
        return tightened(op, loose)
    blocks = (replace(op, kernel=kernel, groups=1) for kernel in op.group_kernels())
    return max((tightened(block, loose) for block in blocks), key=lambda bound: bound.value)


def _dense_bound(op: AbstractConvolution) -> float:
    """Each entry of the matrix is one of the kernel or 0, whatever computes it."""
    blocks = (replace(op, kernel=kernel, groups=1) for kernel in op.group_kernels())
    return up_root(torus_bound(gram_kernel(torch.stack([b.dense() for b in blocks])), ()))


def _stride_one(
    op: AbstractConvolution, kernel: Tensor, stride: tuple[int, ...], torus: tuple[int, ...]
) -> tuple[Float[Tensor, "g o i ..."], tuple[int, ...]]:
    r"""Kernels of the nonzero groups and the torus of a convolution with no stride or dilation.

    Along an axis of stride 1, dilation d multiplies the frequencies :math:`2 \pi j / N` by d: as
    j runs, these are the frequencies of a torus of N / gcd(N, d). Inputs that a group never reads
    (phases that no tap meets) are left out.
    """
    dilation = tuple(1 if s == 1 else d for s, d in zip(stride, op.dilation, strict=True))
    sizes = zip(torus, stride, op.dilation, strict=True)
    torus = tuple(n // math.gcd(n, d) if s == 1 else n for n, s, d in sizes)
    kernel = polyphase(kernel, stride, dilation).unflatten(0, (op.groups, -1))
    kernel = kernel[kernel.flatten(1).any(1)]
    return kernel[:, :, kernel.movedim(2, 0).flatten(1).any(1)], torus


def _largest_square(
    kernel: Float[Tensor, "g o i ..."], torus: tuple[int, ...]
) -> tuple[float, str]:
    gram = gram_kernel(kernel)
    where = f"at all {math.prod(torus)} frequencies" if torus else "of the matrix"
    spectral = f"spectral norm {where}"
    return _orthogonal_square(gram) or (torus_bound(gram, torus), spectral)


def _orthogonal_square(gram: GramKernel) -> tuple[float, str] | None:
    """The squared norm where all kernels are nearly a multiple of an orthogonal one, or None."""
    if not bool(nearly_orthogonal(gram, _EXCESS).all()):
        return None
    squares, deltas = defect_bound(gram)
    tight = bool((squares <= deltas * (1 + _EXCESS)).all())
    return (squares.max().item(), "defect from orthogonality, any input size") if tight else None


def abs_norm_bound(op: AbstractConvolution) -> float:
    r"""Upper bound of :math:`\| |W| \|_2`, the operator with moduli for entries.

    A stride-1 convolution on a torus with a kernel >= 0 has its norm at frequency 0: that of the
    matrix :math:`A = \sum_t |K_t|` of the polyphase kernel, since :math:`|\hat K(\omega) x|
    \le A |x|`; bounded by Collatz and Wielandt. All terms are >= 0, so rounding is relative.
    Infinite on overflow.
    """
    refuse_flushing()
    scale = power_of_two(op.kernel)
    if scale == 0.0:
        return 0.0
    _, stride, squared = embedding(op)
    kernel = polyphase((op.kernel / scale).abs(), stride, op.dilation)
    taps = kernel.flatten(2) if kernel.dim() > 2 else kernel[..., None]
    sums = taps.sum(2).unflatten(0, (op.groups, -1))
    square = collatz_wielandt(sums, taps.shape[2]).max().item()
    return up_product(up_root(square), scale, up_root(float(squared)))
