"""Orthonormal bases as products, by the cheapest route that is exact for the matrix at hand."""

from typing import NamedTuple

import torch
from torch import Tensor

from taut.linalg.precision import exact_products
from taut.linalg.products import gram, product, uses_onednn
from taut.linalg.rates import double_rate
from taut.linalg.single import single_cholesky_qr

# Float32 Cholesky QR leaves singular values within about 2e-6 of 1 for these conditions, where the
# roundings of the inverse factor agree most (spectra turned by Hadamard matrices, 1024 columns);
# that grows with more than the third power. Several bases make a kernel; a single one may be off by
# more.
_SINGLE_CONDITION_LIMIT = 2.0
_ALONE_CONDITION_LIMIT = 2.1
# A matrix whose Gram matrix is this close to the identity, in the Frobenius norm, has a condition
# of at most 2.
_NEAR = 0.6
# Cholesky QR in float64 leaves a defect of about limit^2 * 1e-16: invisible in float32.
_DOUBLE_CONDITION_LIMIT = 1e4
_DEFECT_LIMIT = 5e-3
# Columns that LAPACK factors at once; wider matrices are split, and joined by products.
_BLOCK = 64


class Factors(NamedTuple):
    r"""The basis Q = base @ right of a matrix A = Q S; no `right` stands for the identity.

    `base` is A itself or a basis, `inverse` the transposed inverse of S.
    """

    base: Tensor
    right: Tensor | None
    inverse: Tensor

    def basis(self) -> Tensor:
        """Q, multiplied out."""
        return self.base if self.right is None else product(self.base, self.right)


def factor(a: Tensor, *, alone: bool = False) -> Factors:
    """The factors of the orthonormal basis of `a`, exact for every finite matrix.

    Those of a basis that is used `alone` may be off by a few roundings more. Float64 takes
    Householder QR. Large float32 matrices on a CPU take Cholesky QR in float32, with a correction
    where they are not near-orthonormal; other matrices Cholesky QR in float64; and those too
    ill-conditioned for it Householder QR. Devices that are slow at float64 take Cholesky QR in
    float32, corrected. NaN and infinity are refused.
    """
    with exact_products(a.device):
        return _factor(a, alone=alone)


def _factor(a: Tensor, *, alone: bool) -> Factors:
    if a.dtype == torch.float64:
        return _householder_qr(a)
    if double_rate(a.device) != "fast":
        return _in_single(a.float())
    if a.ndim > 2 and uses_onednn(a, a.shape[-1]):
        return _stacked([_factor(matrix, alone=False) for matrix in a])
    factors = _single_cholesky_qr(a, alone=alone) if uses_onednn(a, a.shape[-1]) else None
    factors = factors or _double_cholesky_qr(a.double())
    return factors or _householder_qr(a.double())


def _in_single(a: Tensor) -> Factors:
    """The factors without float64, but for matrices that are too ill-conditioned."""
    q, inverse, good = single_cholesky_qr(a)
    if bool(good.all()):
        return Factors(q, None, inverse)
    if double_rate(a.device) == "slow":
        return _householder_qr(a.double())
    # There is no float64: on the CPU, of which only float32 comes back.
    q, _, inverse = _householder_qr(a.cpu().double())
    largest = torch.finfo(a.dtype).max
    return Factors(q.to(a), None, inverse.clamp(-largest, largest).to(a))


def _stacked(all_factors: list[Factors]) -> Factors:
    bases = torch.stack([each.basis().float() for each in all_factors])
    return Factors(bases, None, torch.stack([each.inverse.double() for each in all_factors]))


def _single_cholesky_qr(a: Tensor, *, alone: bool = False) -> Factors | None:
    """Cholesky QR in float32; None where its correction to second order would not be enough."""
    square = gram(a)
    size = float(square.diagonal().max())
    if not 1e-30 < size < 1e30:  # NaN fails, too
        return None
    # Beyond these sizes products of vectors with `a` could leave the range of float32.
    moderate = 1e-8 < size < 1e8
    if not moderate:
        square = square / size
    inverse = _inverse_cholesky(square)
    accurate = _is_accurate(square.float(), inverse, alone=alone)
    if not moderate:
        inverse = inverse / size**0.5
    right = inverse.mT.contiguous()
    if moderate and accurate:
        return Factors(a, right, inverse)
    return _corrected(product(a, right), inverse)


def _corrected(q: Tensor, inverse: Tensor) -> Factors | None:
    """An almost orthonormal q and its correction, (I + defect)^(-1/2) to second order."""
    square = gram(q)
    square = square.tril() + square.tril(-1).mT
    identity = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    defect = (square - identity).float()
    # What the correction leaves is 5/16 of the cube of the defect.
    if not float(torch.linalg.matrix_norm(defect)) < _DEFECT_LIMIT:  # NaN fails, too
        return None
    return Factors(q, identity + (0.375 * product(defect, defect) - defect / 2), inverse)


def _inverse_cholesky(square: Tensor) -> Tensor:
    """Inverse of the Cholesky factor of a float64 matrix, in float32; NaN if there is none.

    The lower triangle is read. Float64 where it costs little: in blocks and in sums of products.
    """
    size = square.shape[-1]
    if size <= _BLOCK:
        lower, failed = torch.linalg.cholesky_ex(square)
        return (_lower_inverse(lower) if not failed else lower * torch.nan).float()
    half = (size // 2 + 15) // 16 * 16
    first = _inverse_cholesky(square[:half, :half])
    below = product(square[half:, :half].float(), first.mT)
    last = _inverse_cholesky(square[half:, half:] - product(below, below.mT))
    inverse = first.new_zeros(size, size)
    inverse[:half, :half] = first
    inverse[half:, half:] = last
    # product(below, first), transposed: as the next product reads it
    torch.neg(product(last, product(first.mT, below.mT).mT), out=inverse[half:, :half])
    return inverse


def _is_accurate(square: Tensor, inverse: Tensor, *, alone: bool) -> bool:
    """Whether the inverse Cholesky factor makes columns orthonormal without a correction."""
    diagonal = square.diagonal()
    scale = float(diagonal.max())
    lower = square.tril(-1)
    off = 2 * float(torch.linalg.vector_norm(lower)) ** 2
    if off + float(torch.linalg.vector_norm(diagonal - scale)) ** 2 < (_NEAR * scale) ** 2:
        return True
    largest, smallest = _norms(lower, diagonal, inverse)
    condition = (largest * smallest) ** 0.5  # NaN fails
    return condition < (_ALONE_CONDITION_LIMIT if alone else _SINGLE_CONDITION_LIMIT)


def _norms(lower: Tensor, diagonal: Tensor, inverse: Tensor) -> tuple[float, float]:
    """Norms of a matrix and of its inverse by power iterations: estimates from below, or NaN.

    Of the strict lower triangle and the diagonal of the one, a triangular factor of the other.
    """
    counts = torch.arange(1, len(diagonal) + 1, dtype=lower.dtype, device=lower.device)
    fixed = counts.square().mul(0.7).cos()
    fixed = fixed / torch.linalg.vector_norm(fixed)
    largest, smallest = fixed.clone(), fixed.clone()
    largest[diagonal.argmax()] += 1
    smallest[inverse.square().sum(0).argmax()] += 1
    for _ in range(3):
        largest, smallest = (v / torch.linalg.vector_norm(v) for v in (largest, smallest))
        largest = lower @ largest + lower.mT @ largest + diagonal * largest
        smallest = inverse.mT @ (inverse @ smallest)
    return float(torch.linalg.vector_norm(largest)), float(torch.linalg.vector_norm(smallest))


def _double_cholesky_qr(a: Tensor) -> Factors | None:
    """The factors from the Gram matrix in float64; None where that is not accurate."""
    lower, _ = torch.linalg.cholesky_ex(a.mT @ a)
    inverse = _lower_inverse(lower)
    norms = torch.linalg.matrix_norm(torch.stack((lower, inverse)))
    if not bool((norms[0] * norms[1] < _DOUBLE_CONDITION_LIMIT).all()):  # NaN fails, too
        return None
    return Factors(a @ inverse.mT, None, inverse)


def _lower_inverse(lower: Tensor) -> Tensor:
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)


def _householder_qr(a: Tensor) -> Factors:
    """The factors, the inverse being damped, whatever the condition of `a`."""
    if not bool(torch.isfinite(a).all()):
        raise ValueError("`a` must be finite; got a parameter with NaN or infinity in it.")
    # LAPACK keeps S from overflow only if its input is not at the end of the range.
    scale = a.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    q, upper = torch.linalg.qr(a / scale)
    diagonal = upper.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(a.dtype)
    q, upper = q * sign.unsqueeze(-2), upper * sign.unsqueeze(-1)
    diagonal = upper.diagonal(dim1=-2, dim2=-1)
    floor = diagonal.amax(-1, keepdim=True).clamp(min=1e-8) * (a.shape[-2] * 1e-16)
    damping = torch.diag_embed((floor - diagonal).clamp(min=0))
    # Below this scale (float64 only) the inverse would overflow; the gradient is cut there anyway.
    inverse = _lower_inverse((upper + damping).mT)
    # Even the damped inverse may overflow: then that of the diagonal alone.
    alone = torch.diag_embed(1 / torch.maximum(diagonal, floor))
    finite = inverse.isfinite().all(-1).all(-1)[..., None, None]
    inverse = torch.where(finite, inverse, alone)
    return Factors(q, None, inverse / scale.clamp(min=1e-250))
