"""Orthonormal bases of column spaces, exact for every finite input."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.products import product, uses_onednn

# Cholesky QR in float64 leaves a defect of about limit^2 * 1e-16: invisible in float32.
_CONDITION_LIMIT = 1e4
_DEFECT_LIMIT = 5e-3
_PART = 256


def orthonormal_basis(a: Float[Tensor, "*b m n"]) -> Float[Tensor, "*b m n"]:
    r"""Orthonormal basis of the columns of `a`: the Q of its QR factorisation.

    :math:`A = Q S` with :math:`Q^\top Q = I`, S upper triangular with a diagonal >= 0.

    Guarantee: orthonormal to rounding (float64: 1e-13, others: their own precision) for *every*
        finite `a`. The columns of a rank-deficient `a` are completed to a basis.
    Gradient: exact where `a` has full rank (products with stored matrices, nothing iterated);
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
    return _OrthonormalBasis.apply(a)[0] if a.numel() else a  # pyright: ignore[reportOptionalSubscript]


def basis_product(
    x: Float[Tensor, "*b k"], a: Float[Tensor, "m n"], *, transposed: bool = False
) -> Float[Tensor, "*b l"]:
    r"""Product of row vectors with the orthonormal basis Q of `a`, without building Q's gradient.

    Guarantee: `x @ orthonormal_basis(a)`, or with its transpose, to rounding; so are the gradients.
    Cost: beside the product itself, four large products for the value and the gradient, where
        forming Q and its gradient would take seven.

    Args:
        x: vectors, leading dimensions are batch; k = m, or n if transposed.
        a: the raw matrix, m >= n.
        transposed: whether to multiply by the transpose of Q.

    Returns:
        The products; l = n, or m if transposed.

    Raises:
        ValueError: as :func:`orthonormal_basis`.

    Example:
        >>> basis_product(torch.tensor([[5.0, 0.0]]), torch.tensor([[3.0], [4.0]]))
        tensor([[3.]])
    """
    flat = x.reshape(-1, x.shape[-1])
    product_ = _BasisProduct.apply(flat, a, transposed)[0]  # pyright: ignore[reportOptionalSubscript]
    return product_.reshape(*x.shape[:-1], product_.shape[-1])


class _OrthonormalBasis(torch.autograd.Function):
    """Q, and the transposed inverse of S that its gradient needs."""

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.taut.orthonormal_basis(a)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, inverse = ctx.saved_tensors
        return _raw_gradient(
            lambda inverse: product(grad, inverse), q, product(grad.mT, q), inverse
        )

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Tensor) -> tuple:
        return _OrthonormalBasis.apply(args[0].movedim(in_dims[0], 0)), (0, 0)


class _BasisProduct(torch.autograd.Function):
    """x Q or x Q^T, with all that the gradient needs as outputs, so that it can be saved."""

    @staticmethod
    def forward(x: Tensor, a: Tensor, transposed: bool) -> tuple[Tensor, ...]:
        q, correction, inverse = torch.ops.taut.orthonormal_factors(a)
        if transposed:
            y = product(x + product(x, correction), q.mT)
        else:
            y = product(x, q)
            y = y + product(y, correction)
        return y, q, correction, inverse

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.transposed = inputs[2]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:2], *output)

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, y, q, correction, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: Q as a function of a
            q, correction = orthonormal_basis(a), torch.zeros_like(correction)
        if ctx.transposed:
            grad_x = product(grad, q)
            grad_x = grad_x + product(grad_x, correction)
            overlap = product(grad_x.mT, x).mT
            outer = lambda inverse: product(grad.mT, product(x, inverse))  # noqa: E731
        else:
            grad_x = product(grad + product(grad, correction), q.mT)
            overlap = product(grad.mT, y)
            outer = lambda inverse: product(x.mT, product(grad, inverse))  # noqa: E731
        return grad_x, _raw_gradient(outer, q, overlap, inverse), None

    @staticmethod
    def vmap(info, in_dims: tuple, *args) -> tuple:
        (x, a, transposed), count = args, info.batch_size
        x = x.expand(count, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        if in_dims[1] is None:
            y, *rest = _BasisProduct.apply(x.flatten(0, 1), a, transposed)  # pyright: ignore[reportGeneralTypeIssues]
            return (y.unflatten(0, x.shape[:2]), *rest), (0, None, None, None)
        a = a.movedim(in_dims[1], 0)
        each = [_BasisProduct.apply(*pair, transposed) for pair in zip(x, a, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0, 0, 0, 0)  # pyright: ignore[reportArgumentType]


def _raw_gradient(
    outer: Callable[[Tensor], Tensor], q: Tensor, overlap: Tensor, inverse: Tensor
) -> Tensor:
    """Gradient of `a` from that of Q: G inverse(S)^T plus a part in the span of Q.

    Args:
        outer: multiplies the gradient G of Q by a matrix from the right.
        q: the basis.
        overlap: G^T Q.
        inverse: the transposed inverse of S.
    """
    # Rescaled, so that a tiny `a` (a huge inverse) stays in the range of a narrow dtype.
    scale = inverse.abs().amax((-2, -1), keepdim=True)
    inverse = (inverse / scale).to(q.dtype)
    lower = torch.tril(overlap)
    symmetric = lower + torch.tril(lower, -1).mT
    largest = torch.finfo(q.dtype).max
    grad_a = outer(inverse) - product(q, product(symmetric, inverse))
    grad_a = (grad_a * scale.clamp(max=largest).to(q.dtype)).clamp(-largest, largest)
    return _Final.apply(grad_a) if torch.is_grad_enabled() else grad_a  # pyright: ignore[reportReturnType]


class _Final(torch.autograd.Function):
    """The identity, with an error instead of a derivative that would not be whole."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad_a: Tensor) -> Tensor:
        return grad_a.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError("The gradient by a raw tensor cannot be differentiated again.")


# Operations of torch, so that torch.compile does not look into the choice of a route, which depends
# on values.
_LIBRARY = torch.library.Library("taut", "DEF")
_LIBRARY.define("orthonormal_basis(Tensor a) -> (Tensor, Tensor)")
_LIBRARY.define("orthonormal_factors(Tensor a) -> (Tensor, Tensor, Tensor)")


@torch.library.impl(_LIBRARY, "orthonormal_basis", "CompositeExplicitAutograd")
def _basis(a: Tensor) -> tuple[Tensor, Tensor]:
    """Q, and the transposed inverse of S in float64."""
    q, correction, inverse = _factor(a)
    q = q if correction is None else q + product(q, correction)
    # Row-major, as the fake says: Householder QR answers in columns.
    return q.to(a.dtype).contiguous(), inverse.contiguous()


@torch.library.register_fake("taut::orthonormal_basis", lib=_LIBRARY)
def _fake_basis(a: Tensor) -> tuple[Tensor, Tensor]:
    columns = a.shape[-1]
    return a.new_empty(a.shape), a.new_empty((*a.shape[:-2], columns, columns)).double()


@torch.library.impl(_LIBRARY, "orthonormal_factors", "CompositeExplicitAutograd")
def _factors(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q to be corrected, its correction C (Q + Q C is meant), and the transposed inverse of S."""
    q, correction, inverse = _factor(a)
    none = torch.zeros_like(inverse, dtype=a.dtype)
    correction = none if correction is None else correction
    return q.to(a.dtype).contiguous(), correction, inverse.contiguous()


@torch.library.register_fake("taut::orthonormal_factors", lib=_LIBRARY)
def _fake_factors(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, inverse = _fake_basis(a)
    return q, torch.empty_like(inverse, dtype=a.dtype), inverse


_Factors = tuple[Tensor, Tensor | None, Tensor]


def _factor(a: Tensor) -> _Factors:
    """Q, a correction C (Q + Q C is meant) or None, and the transposed inverse of S.

    By the cheapest route that is exact for this `a`.
    """
    if a.dtype == torch.float64:
        return _householder_qr(a)
    factored = _corrected_cholesky_qr(a) if uses_onednn(a, a.shape[-1]) else None
    factored = factored or _cholesky_qr(a.double())
    return factored or _householder_qr(a.double())


def _corrected_cholesky_qr(a: Tensor) -> _Factors | None:
    """Float32 Cholesky QR and its correction to second order; None where that is not enough."""
    factor, _ = torch.linalg.cholesky_ex(product(a.mT, a).double())
    inverse = _lower_inverse(factor)
    q = product(a, inverse.mT.to(a.dtype))
    # Summed in parts: a float32 sum over all rows would be as wrong as the defect it measures.
    gram = torch.stack([product(part.mT, part) for part in q.split(_PART, dim=-2)]).sum(0)
    defect = gram - torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    # The correction, (I + defect)^(-1/2) - I to second order, leaves 5/16 of the cube.
    if not bool(torch.linalg.matrix_norm(defect).max() < _DEFECT_LIMIT):  # NaN fails, too
        return None
    return q, 0.375 * product(defect, defect) - defect / 2, inverse


def _cholesky_qr(a: Tensor) -> _Factors | None:
    """The factors from the Gram matrix; None where that is not accurate."""
    factor, _ = torch.linalg.cholesky_ex(a.mT @ a)
    inverse = _lower_inverse(factor)
    norms = torch.linalg.matrix_norm(torch.stack((factor, inverse)))
    if not bool((norms[0] * norms[1] < _CONDITION_LIMIT).all()):  # NaN fails, too
        return None
    return a @ inverse.mT, None, inverse


def _lower_inverse(factor: Tensor) -> Tensor:
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def _householder_qr(a: Tensor) -> _Factors:
    """The factors, the inverse being damped, whatever the condition of `a`."""
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
    return q, None, _lower_inverse((factor + damping).mT) / scale.clamp(min=1e-250)
