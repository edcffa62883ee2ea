"""Orthonormal bases of column spaces, exact for every finite input."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from taut._torch_private import cached_constants, has_batched_gradients, has_no_numbers
from taut.linalg.derivatives import applied, keep
from taut.linalg.factors import factor
from taut.linalg.one_route import one_route_basis, takes_one_route
from taut.linalg.products import congruence, difference_of_products, matmul, product
from taut.linalg.rates import counts_launches, wide, wide_dtype


def orthonormal_basis(a: Float[Tensor, "*b m n"]) -> Float[Tensor, "*b m n"]:
    r"""Orthonormal basis of the columns of `a`: the Q of its QR factorisation.

    :math:`A = Q S` with :math:`Q^\top Q = I`, S upper triangular with a diagonal >= 0.

    Guarantee: orthonormal to rounding (float64: 1e-13, others: their own precision) for *every*
        finite `a`. The columns of a rank-deficient `a` are completed to a basis. In training off
        the CPU no number is read on the host: see :func:`taut.linalg.one_route.one_route_basis`.
    Gradient: exact where `a` has full rank (products with stored matrices, nothing iterated);
        finite everywhere, the inverse of S being damped where `a` has no full rank.
    Cost: one Gram matrix, one Cholesky factor and one product: in float32 for large float32
        matrices on a CPU (twice that where the columns are not near-orthonormal already), in
        float64 for others; Householder QR where `a` is too ill-conditioned, and always in float64.
        The gradient: three products.

    Reference:
        Yamamoto et al. (2015), *Roundoff error analysis of the CholeskyQR2 algorithm*, ETNA 44;
        derivative: Seeger et al. (2017), *Auto-differentiating linear algebra*, arXiv:1710.08717.
    """
    rows, columns = a.shape[-2:]
    if rows < columns:
        raise ValueError(
            f"`a` must have at least as many rows as columns; got {rows} rows, {columns} columns."
        )
    if not a.numel():
        return a
    return applied(_OrthonormalBasis, a, takes_one_route(a))[0]


def basis_product(
    x: Float[Tensor, "*b k"], a: Float[Tensor, "m n"], *, transposed: bool = False
) -> Float[Tensor, "*b l"]:
    r"""`x @ orthonormal_basis(a)`, or with its transpose, without the gradient of the basis itself.

    Guarantee: as the product with the basis, to rounding; so are the gradients. In float32 the
        singular values of the map are within 3e-6 of 1.
    Cost: beside the product itself, one Gram matrix for the value and one large product for the
        gradient where the condition of `a` is moderate, twice that where it is not.
    """
    flat = x.reshape(-1, x.shape[-1])
    product_ = applied(_BasisProduct, flat, a, transposed)[0]
    return product_.reshape(*x.shape[:-1], product_.shape[-1])


class _OrthonormalBasis(torch.autograd.Function):
    """Q, and the transposed inverse of S that its gradient needs."""

    @staticmethod
    def forward(a: Tensor, one_route: bool) -> tuple[Tensor, Tensor]:
        return one_route_basis(a) if one_route else torch.ops.taut.orthonormal_basis(a)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # or zeros are made for the second
        keep(ctx, inputs[0], *output)

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: None) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return None, None
        a, q, inverse = ctx.saved_tensors
        times = matmul if torch.is_grad_enabled() else product
        if torch.is_grad_enabled():  # to be differentiated again
            inverse = _smooth_inverse(a, q, inverse)
        grad_a = _raw_gradient(
            lambda symmetric, inverse: times(grad - times(q, symmetric), inverse),
            times(grad.mT, q),
            inverse,
        )
        return grad_a, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, _: Any) -> tuple[Tensor, None]:
        a, q, inverse = ctx.saved_tensors
        return _basis_tangent(a, q, inverse, tangent), None

    @staticmethod
    def vmap(info, in_dims: tuple, *args) -> tuple:
        moved = args[0].movedim(in_dims[0], 0)
        return applied(_OrthonormalBasis, moved, args[1]), (0, 0)


class _BasisProduct(torch.autograd.Function):
    """x Q or x Q^T, with all that the gradient needs as outputs, so that it can be saved."""

    @staticmethod
    def forward(x: Tensor, a: Tensor, transposed: bool) -> tuple[Tensor, ...]:
        opaque = torch.compiler.is_compiling() or has_no_numbers(a)
        base, right, inverse = torch.ops.taut.orthonormal_factors(a) if opaque else _parts(a)
        used = base if base.numel() else a
        if transposed:
            y = product(product(x, right.mT), used.mT)
        else:
            y = product(product(x, used), right)
        return y, base, right, inverse

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.transposed = inputs[2]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        keep(ctx, *inputs[:2], *output)

    @staticmethod
    def backward(ctx, grad: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return None, None, None
        x, a, y, base, right, inverse = ctx.saved_tensors
        special = torch.is_grad_enabled() or has_batched_gradients(grad)
        if not (special or base.numel()):
            return _near_gradients(ctx, grad, x, a, y, right)
        times = matmul if torch.is_grad_enabled() else product
        base, inverse = (base, inverse) if base.numel() else (a, right.mT)
        if torch.is_grad_enabled():  # to be differentiated again: Q as a function of a
            base, inverse = applied(_OrthonormalBasis, a, takes_one_route(a))
            right = torch.eye(*right.shape, dtype=right.dtype, device=right.device)
            inverse = _smooth_inverse(a, base, inverse)
        if ctx.transposed:
            grad_x = times(times(grad, base), right)
            overlap = times(grad_x.mT, x).mT
            left, vectors = grad, x
        else:
            grad_x = times(times(grad, right.mT), base.mT)
            overlap = times(grad.mT, y)
            left, vectors = x, grad

        def raw(symmetric: Tensor, inverse: Tensor) -> Tensor:
            inside = times(right, times(symmetric, inverse))
            outside = times(left.mT, times(vectors, inverse))
            if torch.is_grad_enabled():
                return outside - times(base, inside)
            return outside.sub_(times(base, inside))

        return grad_x, _raw_gradient(raw, overlap, inverse), None

    @staticmethod
    def tangent(ctx, *tangents: Tensor | None) -> tuple[Tensor, None, None, None]:
        (x, a, *_), (of_x, of_a, _) = ctx.saved_tensors, tangents
        q, inverse = applied(_OrthonormalBasis, a, takes_one_route(a))
        parts = [] if of_x is None else [matmul(of_x, q.mT if ctx.transposed else q)]
        if of_a is not None:
            moved = _basis_tangent(a, q, inverse, of_a)
            parts.append(matmul(x, moved.mT if ctx.transposed else moved))
        return sum(parts[1:], parts[0]), None, None, None

    @staticmethod
    def vmap(info, in_dims: tuple, *args) -> tuple:
        (x, a, transposed), count = args, info.batch_size
        x = x.expand(count, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        if in_dims[1] is None:
            y, *rest = applied(_BasisProduct, x.flatten(0, 1), a, transposed)
            return (y.unflatten(0, x.shape[:2]), *rest), (0, None, None, None)
        a = a.movedim(in_dims[1], 0)
        each = [applied(_BasisProduct, *pair, transposed) for pair in zip(x, a, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0, 0, 0, 0)  # pyright: ignore[reportArgumentType]


def _near_gradients(
    ctx, grad: Tensor, x: Tensor, a: Tensor, y: Tensor, right: Tensor
) -> tuple[Tensor | None, Tensor | None, None]:
    """The gradients where Q = a @ right: as the general ones, each product taken once.

    With G^T Q = L + (strictly upper), R = inverse(S): G R^T - a R (tril(L) + tril(L, -1)^T) R^T.
    """
    wanted_x, wanted_a = ctx.needs_input_grad[:2]
    if ctx.transposed:
        grad_x = product(product(grad, a), right)
        if not wanted_a:
            return grad_x, None, None
        overlap, left, vectors = product(x.mT, grad_x), grad, product(x, right.mT)
    else:
        vectors = product(grad, right.mT)
        grad_x = product(vectors, a.mT) if wanted_x else None
        if not wanted_a:
            return grad_x, None, None
        overlap, left = product(grad.mT, y), x
    lower = overlap.tril_()
    lower.diagonal().mul_(0.5)
    inside = congruence(right, lower)
    return grad_x, difference_of_products(left.mT, vectors, a, inside.mT), None


def _raw_gradient(
    apply: Callable[[Tensor, Tensor], Tensor], overlap: Tensor, inverse: Tensor
) -> Tensor:
    """Gradient of `a` from the gradient G of Q: (G - Q M) inverse(S)^T with a symmetric M.

    `apply` makes it of M and the transposed inverse of S; M is the lower triangle of the overlap
    G^T Q, mirrored.
    """
    # Rescaled, so that a tiny `a` (a huge inverse) stays in the range of a narrow dtype.
    scale = torch.linalg.vector_norm(inverse.detach(), torch.inf, (-2, -1), keepdim=True)
    symmetric = _mirrored(overlap)
    largest = torch.finfo(overlap.dtype).max
    grad_a = apply(symmetric, (inverse / scale).to(overlap.dtype))
    if torch.is_grad_enabled():
        scale = scale.clamp(max=largest).to(grad_a.dtype)
        return (grad_a * scale).clamp(-largest, largest)
    return grad_a.mul_(scale).clamp_(-largest, largest)


def _mirrored(a: Tensor) -> Tensor:
    """The symmetric matrix with the lower triangle of `a`."""
    if counts_launches(a.device):
        return torch.where(_lower(a.shape[-1], a.device), a, a.mT)
    lower = torch.tril(a)
    return lower + torch.tril(lower, -1).mT


@cached_constants
def _lower(size: int, device: torch.device) -> Tensor:
    """Where the lower triangle of a matrix is, on a device."""
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()


class _TransposedInverse(torch.autograd.Function):
    """The transposed inverse Y of a matrix S, known already, as a function of S."""

    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor, inverse: Tensor) -> Tensor:
        return inverse.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        keep(ctx, output)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return -(y @ grad.mT @ y), None

    @staticmethod
    def tangent(ctx, tangent: Tensor, _: Any) -> Tensor:
        (y,) = ctx.saved_tensors
        return -(y @ tangent.mT @ y)


def _smooth_inverse(a: Tensor, q: Tensor, inverse: Tensor) -> Tensor:
    """The transposed inverse of S = Q^T A, as a function of A."""
    return applied(_TransposedInverse, matmul(q.mT, a).to(inverse), inverse)


def _basis_tangent(a: Tensor, q: Tensor, inverse: Tensor, tangent: Tensor) -> Tensor:
    r"""How Q moves with A.

    With :math:`X = dA\,S^{-1}`, :math:`B = Q^\top X` and L strictly below the diagonal of B it is
    :math:`X - Q (B - L + L^\top)`: then :math:`Q^\top dQ` is skew, and :math:`dS\,S^{-1}` upper
    triangular.
    """
    x = matmul(tangent, _smooth_inverse(a, q, inverse).mT.to(tangent.dtype))
    overlap = matmul(q.mT, x)
    lower = torch.tril(overlap, -1)
    return x - matmul(q, overlap - lower + lower.mT)


# Operations of torch, so that torch.compile does not look into the choice of a route, which depends
# on values.
_LIBRARY = torch.library.Library("taut", "DEF")
# Since torch 2.9: a CUDA graph cannot hold an operation that reads numbers on the host.
_TAGS = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()
_LIBRARY.define("orthonormal_basis(Tensor a) -> (Tensor, Tensor)", tags=_TAGS)
_LIBRARY.define("orthonormal_factors(Tensor a) -> (Tensor, Tensor, Tensor)", tags=_TAGS)


@torch.library.impl(_LIBRARY, "orthonormal_basis", "CompositeExplicitAutograd")
def _basis(a: Tensor) -> tuple[Tensor, Tensor]:
    """Q, and the transposed inverse of S in float64."""
    factors = factor(a)
    # Row-major, as the fake says: Householder QR answers in columns.
    return factors.basis().to(a.dtype).contiguous(), wide(factors.inverse).contiguous()


@torch.library.register_fake("taut::orthonormal_basis", lib=_LIBRARY)
def _fake_basis(a: Tensor) -> tuple[Tensor, Tensor]:
    columns = a.shape[-1]
    inverse = a.new_empty((*a.shape[:-2], columns, columns), dtype=wide_dtype(a.device))
    return a.new_empty(a.shape), inverse


@torch.library.impl(_LIBRARY, "orthonormal_factors", "CompositeExplicitAutograd")
def _factors(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two factors of Q, and the transposed inverse of S in float64."""
    base, right, inverse = _parts(a)
    if base.numel():
        return base, right, inverse
    return a.clone(), right, wide(right.mT).contiguous()


def _parts(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_factors`, but with nothing for a first factor that is `a`: no output may be an input.

    Then there is nothing for the inverse of S, too: it is the second factor.
    """
    base, right, inverse = factor(a, alone=True)
    if base is a and right is not None:
        return a.new_empty(0), right, a.new_empty(0)
    if right is None:
        right = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return base.to(a.dtype).contiguous(), right.contiguous(), wide(inverse).contiguous()


@torch.library.register_fake("taut::orthonormal_factors", lib=_LIBRARY)
def _fake_factors(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    base, inverse = _fake_basis(a)
    return base, torch.empty_like(inverse, dtype=a.dtype), inverse
