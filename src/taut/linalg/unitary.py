r"""Unitary matrices from arbitrary ones, real or complex, batched: basis, polar factor, Cayley.

All are unitary to rounding for *every* finite matrix, rank-deficient and zero ones included, and
have finite gradients there. A matrix that is not square becomes semi-unitary: the columns of a tall
one, or the rows of a wide one, are orthonormal.
"""

import torch
from torch import Tensor

from taut.linalg.derivatives import applied, final, keep
from taut.linalg.lu import divided
from taut.linalg.rates import wide


def unitary_basis(a: Tensor) -> Tensor:
    r"""Orthonormal basis of the columns of `a`, or of its rows if it is wide: the Q of A = Q R.

    The diagonal of R is real and >= 0, so that Q is continuous where A has full rank.

    Gradient: exact up to a damping of :math:`R^{-1}`, which counts where the squared condition
        number nears the precision.

    Example:
        >>> unitary_basis(torch.tensor([[3.0], [4.0]]))
        tensor([[0.6000],
                [0.8000]])
    """
    if a.shape[-2] < a.shape[-1]:
        return unitary_basis(a.mH).mH
    return applied(_Basis, a)[0]


def polar_factor(a: Tensor) -> Tensor:
    r"""The semi-unitary matrix nearest to `a`: :math:`U V^*` of its singular value decomposition.

    Gradient: exact up to a damping of the smallest singular values, at the precision.

    Example:
        >>> polar_factor(torch.tensor([[0.0, 2.0j], [3.0, 0.0]])).abs().round()
        tensor([[0., 1.],
                [1., 0.]])
    """
    return applied(_Polar, a)[0]


def cayley(a: Tensor) -> Tensor:
    r"""Cayley transform of a tall matrix :math:`[U; V]`, or of the adjoint of a wide one.

    With :math:`A = U - U^* + V^* V` it is :math:`[(I - A) (I + A)^{-1}; -2 V (I + A)^{-1}]`, whose
    columns are orthonormal: :math:`(I - A)^* (I - A) + 4 V^* V = (I + A)^* (I + A)`, since
    :math:`A + A^* = 2 V^* V`.

    Example:
        >>> cayley(torch.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    rows, n = a.shape[-2:]
    if rows < n:
        return cayley(a.mH).mH
    u, v = a[..., :n, :], a[..., n:, :]
    skew = u - u.mH + v.mH @ v
    eye = torch.eye(n, dtype=a.dtype, device=a.device)
    q = divided(torch.cat((eye - skew, -2 * v), -2), eye + skew)
    return q + (_polished(q.detach()) - q.detach())


def _polished(q: Tensor) -> Tensor:
    """A step of Newton and Schulz, which squares the distance from a unitary matrix.

    In double precision, where the device has it: bases of rank-deficient matrices have many equal
    entries, so that the rounding of single products adds up, to 3e-6 for 256 columns.
    """
    if q.shape[-2] < q.shape[-1]:
        return _polished(q.mH).mH.resolve_conj()
    exact = wide(q)
    eye = torch.eye(q.shape[-1], dtype=exact.dtype, device=q.device)
    return (exact + 0.5 * exact @ (eye - exact.mH @ exact)).to(q.dtype)


def _scaled(a: Tensor) -> tuple[Tensor, Tensor]:
    """Each matrix over a power of two near its largest entry (or 1), and that number."""
    largest = a.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(largest > 0, torch.exp2(largest.log2().round()), torch.ones_like(largest))
    return a / scale, scale


def _svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition."""
    try:
        return torch.linalg.svd(a, full_matrices=False)
    except RuntimeError:  # torch.linalg.LinAlgError
        if bool(a.isfinite().all()):
            raise
        raise ValueError("`a` must be finite; got a matrix with NaN or infinity in it.") from None


def _rescaled(grad: Tensor, scale: Tensor) -> Tensor:
    """The gradient of `a` from that of `a / scale`, within the range of its precision."""
    largest = torch.finfo(grad.dtype).max
    grad = grad / scale
    if grad.is_complex():
        return torch.view_as_complex(torch.view_as_real(grad).clamp(-largest, largest))
    return grad.clamp(-largest, largest)


class _Basis(torch.autograd.Function):
    """Q of a tall matrix, and what its gradient needs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled, scale = _scaled(a)
        q, r = torch.linalg.qr(scaled)
        diagonal = r.diagonal(dim1=-2, dim2=-1).real
        # Of Householder's R, whose diagonal is real, so that Q is continuous in A.
        signs = torch.where(diagonal < 0, -1.0, 1.0).to(diagonal)
        return _polished(q * signs[..., None, :]), r * signs[..., :, None], scale

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        keep(ctx, *inputs, *output)

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # With X = Q* dA R^-1, Q* dQ is skew with the lower triangle of X and the imaginary part of
        # its diagonal; the rest of dQ is (1 - Q Q*) dA R^-1.
        a, q, r, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            r = torch.triu(q.mH @ (a / scale))
        overlap = q.mH @ grad
        skew = overlap - overlap.mH
        lower = skew.tril(-1) + 0.5 * torch.diag_embed(skew.diagonal(dim1=-2, dim2=-1))
        outside = grad - q @ (overlap - lower)
        return _rescaled(divided(outside @ r, _damped_gram(r)), scale)

    @staticmethod
    def tangent(ctx, tangent: Tensor) -> tuple[Tensor, None, None]:
        a, q, _, scale = ctx.saved_tensors
        r = torch.triu(q.mH @ (a / scale))
        x = divided(tangent / scale, _damped_gram(r)) @ r.mH
        overlap = q.mH @ x
        skew = overlap - overlap.mH
        lower = overlap.tril(-1)
        diagonal = 0.5 * torch.diag_embed(skew.diagonal(dim1=-2, dim2=-1))
        return x - q @ (overlap - lower + lower.mH - diagonal), None, None


def _damped_gram(r: Tensor) -> Tensor:
    gram = r.mH @ r
    size = gram.detach().diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None]
    damping = torch.finfo(size.dtype).eps * torch.where(size > 0, size, torch.ones_like(size))
    return gram + damping * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


class _Polar(torch.autograd.Function):
    """The polar factor, and what its gradient needs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, ...]:
        scaled, scale = _scaled(a)
        u, s, vh = _svd(scaled)
        return _polished(u @ vh), u, s, vh, scale

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        keep(ctx, *output)

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        polar, *factors = ctx.saved_tensors
        derivative = _polar_derivative(grad, *factors)
        return final(derivative, polar) if torch.is_grad_enabled() else derivative

    @staticmethod
    def tangent(ctx, tangent: Tensor) -> tuple[Tensor, None, None, None, None]:
        polar, *factors = ctx.saved_tensors
        return final(_polar_derivative(tangent, *factors), polar), None, None, None, None


def _polar_derivative(x: Tensor, u: Tensor, s: Tensor, vh: Tensor, scale: Tensor) -> Tensor:
    """The derivative in direction `x`; the map is its own adjoint.

    U* dP V = (K - K*) / (s_i + s_j) with K = U* dA V; beyond the range of U (or V) it is dA times
    the inverse of the singular values.
    """
    tiny = torch.finfo(s.dtype).eps * s[..., :1]
    s = s + torch.where(tiny > 0, tiny, torch.ones_like(tiny))
    inside = u.mH @ x @ vh.mH
    total = u @ ((inside - inside.mH) / (s[..., :, None] + s[..., None, :])) @ vh
    if x.shape[-2] > x.shape[-1]:
        rest = x @ vh.mH - u @ inside
        total = total + (rest / s[..., None, :]) @ vh
    elif x.shape[-2] < x.shape[-1]:
        rest = u.mH @ x - inside @ vh
        total = total + u @ (rest / s[..., :, None])
    return _rescaled(total, scale)
