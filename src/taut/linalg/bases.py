"""Orthonormal bases of column spaces, exact for every finite input."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from taut.linalg.products import product, uses_onednn

# Cholesky QR in float64 leaves a defect of about limit^2 * 1e-16: invisible in float32.
_CONDITION_LIMIT = 1e4
_DEFECT_LIMIT = 5e-4
_PART = 256


def orthonormal_basis(a: Float[Tensor, "*b m n"]) -> Float[Tensor, "*b m n"]:
    r"""Orthonormal basis of the columns of `a`: the Q of its QR factorisation.

    :math:`A = Q S` with :math:`Q^\top Q = I`, S upper triangular with a diagonal >= 0.

    Guarantee: orthonormal to rounding (float64: 1e-13, others: their own precision) for *every*
        finite `a`. The columns of a rank-deficient `a` are completed to a basis.
    Gradient: exact where `a` has full rank (two products with stored matrices, nothing iterated);
        finite everywhere, the inverse of S being damped where `a` has no full rank.
    Cost: below float64, one Gram matrix, one Cholesky factor and one product in float64 (large
        float32 matrices on a CPU: two Gram matrices and two products in float32 instead);
        Householder QR where `a` is too ill-conditioned for them, and always in float64.

    Args:
        a: matrices with m >= n; leading dimensions are batch.

    Returns:
        Q, of the shape and dtype of `a`.

    Raises:
        ValueError: if m < n, or if `a` has a NaN or an infinity.

    Reference:
        Yamamoto et al. (2015), *Roundoff error analysis of the CholeskyQR2 algorithm*, ETNA 44;
        derivative: Seeger et al. (2017), *Auto-differentiating linear algebra*, arXiv:1710.08717.

    Example:
        >>> orthonormal_basis(torch.tensor([[3.0], [4.0]]))
        tensor([[0.6000],
                [0.8000]])
    """
    rows, columns = a.shape[-2:]
    if rows < columns:
        raise ValueError(
            f"`a` must have at least as many rows as columns; got {rows} rows, {columns} columns."
        )
    if a.numel() == 0:
        return a
    return _OrthonormalBasis.apply(a)  # pyright: ignore[reportReturnType]


class _OrthonormalBasis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor) -> Tensor:
        q, inverse = _factor(a)
        q = q.to(a.dtype)
        ctx.save_for_backward(q, inverse)
        return q

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, inverse = ctx.saved_tensors
        # Rescaled, so that a tiny `a` (a huge inverse) stays in the range of a narrow dtype.
        scale = inverse.abs().amax((-2, -1), keepdim=True)
        inverse = (inverse / scale).to(q.dtype)
        lower = torch.tril(-product(grad.mT, q))
        symmetric = lower + torch.tril(lower, -1).mT
        largest = torch.finfo(q.dtype).max
        grad_a = product(grad, inverse) + product(q, product(symmetric, inverse))
        return (grad_a * scale.clamp(max=largest).to(q.dtype)).clamp(-largest, largest)


def _factor(a: Tensor) -> tuple[Tensor, Tensor]:
    """Q and the transposed inverse of S, by the cheapest route that is exact for this `a`."""
    if a.dtype == torch.float64:
        return _householder_qr(a)
    factored = _corrected_cholesky_qr(a) if uses_onednn(a, a.shape[-1]) else None
    factored = factored or _cholesky_qr(a.double())
    return factored or _householder_qr(a.double())


def _corrected_cholesky_qr(a: Tensor) -> tuple[Tensor, Tensor] | None:
    """Q to first order in the defect of a float32 Cholesky QR; None where it is not small."""
    factor, _ = torch.linalg.cholesky_ex(product(a.mT, a).double())
    inverse = _lower_inverse(factor)
    q = product(a, inverse.mT.to(a.dtype))
    # Summed in parts: a float32 sum over all rows would be as wrong as the defect it measures.
    gram = torch.stack([product(part.mT, part) for part in q.split(_PART, dim=-2)]).sum(0)
    defect = gram - torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    # The correction leaves 3/8 of the squared defect.
    if not bool(torch.linalg.matrix_norm(defect).max() < _DEFECT_LIMIT):  # NaN fails, too
        return None
    return q - product(q, defect / 2), inverse


def _cholesky_qr(a: Tensor) -> tuple[Tensor, Tensor] | None:
    """Q and the transposed inverse of S from the Gram matrix; None where that is not accurate."""
    factor, _ = torch.linalg.cholesky_ex(a.mT @ a)
    inverse = _lower_inverse(factor)
    norms = torch.linalg.matrix_norm(torch.stack((factor, inverse)))
    if not bool((norms[0] * norms[1] < _CONDITION_LIMIT).all()):  # NaN fails, too
        return None
    return a @ inverse.mT, inverse


def _lower_inverse(factor: Tensor) -> Tensor:
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def _householder_qr(a: Tensor) -> tuple[Tensor, Tensor]:
    """Q and the (damped) transposed inverse of S, whatever the condition of `a`."""
    if not bool(torch.isfinite(a).all()):
        raise ValueError("`a` must be finite; got a raw tensor with NaN or infinity in it.")
    # LAPACK keeps S from overflow only if its input is not at the end of the range.
    scale = a.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    q, factor = torch.linalg.qr(a / scale)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(a.dtype)
    q, factor = q * sign.unsqueeze(-2), factor * sign.unsqueeze(-1)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    floor = diagonal.amax(-1, keepdim=True).clamp(min=1e-8) * (a.shape[-2] * 1e-16)
    damping = torch.diag_embed((floor - diagonal).clamp(min=0))
    # Below this scale (float64 only) the inverse would overflow; the gradient is cut there anyway.
    return q, _lower_inverse((factor + damping).mT) / scale.clamp(min=1e-250)
