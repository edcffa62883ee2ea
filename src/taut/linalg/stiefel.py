"""Matrices that are orthonormal already, as bases of themselves."""

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.products import matmul, product


def tangent(
    v: Float[Tensor, "*b m n"], overlap: Float[Tensor, "*b n n"], g: Float[Tensor, "*b m n"]
) -> Float[Tensor, "*b m n"]:
    r""":math:`G - V \operatorname{sym}(V^\top G)`, the projection to the tangent space at V.

    Args:
        v: orthonormal columns.
        overlap: :math:`V^\top G`.
        g: what is projected.
    """
    return g - product(v, (overlap + overlap.mT) / 2)


def own_basis(v: Float[Tensor, "*b m n"]) -> Float[Tensor, "*b m n"]:
    r"""A matrix with orthonormal columns, itself, as the nearest such matrix to itself.

    Gradient: the tangent part of that of the result, :math:`G - V \operatorname{sym}(V^\top G)`,
        which is exact for the polar factor. It cannot be differentiated again.
    Cost: none, and two products for the gradient.

    Reference:
        Edelman, Arias and Smith (1998), *The geometry of algorithms with orthogonality
        constraints*, section 2.2.1; arXiv:physics/9806030.

    Example:
        >>> v = torch.tensor([[0.6], [0.8]], requires_grad=True)
        >>> own_basis(v).sum().backward()
        >>> v.grad
        tensor([[ 0.1600],
                [-0.1200]])
    """
    return _OwnBasis.apply(v)  # pyright: ignore[reportReturnType]


def own_product(
    x: Float[Tensor, "*b k"], v: Float[Tensor, "m n"], *, transposed: bool = False
) -> Float[Tensor, "*b l"]:
    """`x @ own_basis(v)`, or with its transpose, with one large product less in the gradient."""
    columns = v.shape[0] if transposed else v.shape[1]
    y = _OwnProduct.apply(x.reshape(-1, x.shape[-1]), v, transposed)
    return y.reshape(*x.shape[:-1], columns)  # pyright: ignore[reportOptionalMemberAccess]


# Without `setup_context`, which torch pays for in each call: transforms of `torch.func` never come
# here.
class _OwnBasis(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(v)
        return v.view_as(v)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (v,) = ctx.saved_tensors
        return _projected(v, product(v.mT, grad.detach()), grad)


class _OwnProduct(torch.autograd.Function):
    """x V or x V^T: V and its gradient overlap as outputs or inputs do with their gradients."""

    @staticmethod
    def forward(ctx, x: Tensor, v: Tensor, transposed: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y = product(x, v.mT if transposed else v)
        ctx.transposed = transposed
        ctx.save_for_backward(x, v, y)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, v, y = ctx.saved_tensors
        # To be differentiated again, V is a function of the raw tensor.
        times, basis = (matmul, own_basis(v)) if torch.is_grad_enabled() else (product, v)
        if ctx.transposed:
            grad_x, grad_v = times(grad, basis), times(grad.mT, x)
            overlap = product(grad_x.detach().mT, x.detach())
        else:
            grad_x, grad_v = times(grad, basis.mT), times(x.mT, grad)
            overlap = product(y.detach().mT, grad.detach())
        return grad_x, _projected(v, overlap, grad_v), None


def _projected(v: Tensor, overlap: Tensor, grad: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return tangent(v, overlap, grad)
    return _Projected.apply(v, overlap, grad)  # pyright: ignore[reportReturnType]


class _Projected(torch.autograd.Function):
    """The projection of a gradient, with an error instead of a derivative of it."""

    @staticmethod
    def forward(ctx, v: Tensor, overlap: Tensor, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangent(v, overlap, grad)

    @staticmethod
    def backward(ctx, _: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError("The gradient by a parameter cannot be differentiated again.")
