"""Block convolution: kernels whose taps are matrices, times orthogonal two-tap steps, and back."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from taut._torch_private import has_dual_numbers, inside_transform
from taut.linalg.products import matmul, product


def step_order(size: tuple[int, ...]) -> list[tuple[int, int]]:
    """Pairs (number of earlier steps along the axis, axis) of the steps to a size; axes alternate.

    Example:
        >>> step_order((3, 2))
        [(0, 0), (0, 1), (1, 0)]
    """
    return sorted((turn, axis) for axis, k in enumerate(size) for turn in range(k - 1))


def grow(
    taps: Float[Tensor, "g *grid rows c"],
    basis: Float[Tensor, "g c r"],
    axis: int,
    *,
    flipped: bool = False,
) -> Float[Tensor, "g *longer rows c"]:
    r"""Block convolution of kernels with two-tap steps :math:`[P, I-P]` along one axis of the grid.

    With :math:`P = R R^\top`, R the orthonormal columns of `basis` (maybe none), the result has the
    taps :math:`K_j P + K_{j-1} (I - P)`: one product per tap that is already there, in factored
    form, so that P itself is never built. If `flipped` the step is :math:`[I-P, P]`. It is an
    orthogonal convolution: the result has the singular values of `taps`. Groups g do not mix.

    Cost: `4 * g * taps * rows * c * r` multiplications and additions.

    Reference:
        Li et al. (2019), section 4.1 and appendix B; arXiv:1911.00937. Multiplied out one axis
        at a time here, not as 2x2 blocks: 13 instead of over 60 products for a 3x3 kernel.
    """
    plain = torch.compiler.is_compiling() or inside_transform() or has_dual_numbers()
    result = (_grown if plain else _Grow.apply)(taps, basis, axis + 1, flipped)
    return result  # pyright: ignore[reportReturnType]


def _grown(taps: Tensor, basis: Tensor, axis: int, flipped: bool) -> Tensor:
    """As :func:`grow`, with the axis behind the groups."""
    flat = taps.flatten(1, -2)
    return _two_taps(taps, matmul(matmul(flat, basis), basis.mT).view(taps.shape), axis, flipped)


def _two_taps(taps: Tensor, inside: Tensor, axis: int, flipped: bool) -> Tensor:
    """Taps inside of a span and those outside of it, one of both a place later than the other."""
    outside = taps - inside
    early, late = (outside, inside) if flipped else (inside, outside)
    others = taps.shape[axis] - 1
    if not others:
        return torch.cat((early, late), axis)
    first, following = early.split((1, others), axis)
    preceding, last = late.split((others, 1), axis)
    return torch.cat((first, following + preceding, last), axis)


class _Grow(torch.autograd.Function):
    r"""Growth with few calls.

    With K the taps, P = R R^T and G the gradients of the longer kernel, that of K is
    :math:`G_{j+1} + (G_j - G_{j+1}) P`, and that of R :math:`\sum_j \Delta_j^\top K_j R +
    K_j^\top \Delta_j R` with :math:`\Delta_j = G_j - G_{j+1}`.
    """

    @staticmethod
    def forward(ctx, taps: Tensor, basis: Tensor, axis: int, flipped: bool) -> Tensor:
        flat = taps.flatten(1, -2)
        coordinates = matmul(flat, basis)
        ctx.axis, ctx.flipped = axis, flipped
        ctx.save_for_backward(taps, basis, coordinates)
        inside = matmul(coordinates, basis.mT).view(taps.shape)
        return _two_taps(taps, inside, axis, flipped)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        taps, basis, coordinates = ctx.saved_tensors
        times, flat = product, taps.flatten(1, -2)
        if torch.is_grad_enabled():  # to be differentiated again
            times, coordinates = matmul, matmul(flat, basis)
        count = taps.shape[ctx.axis]
        early, late = (grad.narrow(ctx.axis, start, count) for start in (0, 1))
        kept, other = (early, late) if ctx.flipped else (late, early)
        delta = (other - kept).reshape(flat.shape)
        inside = times(delta, basis)
        grad_taps = kept + times(inside, basis.mT).reshape(taps.shape)
        grad_basis = times(delta.mT, coordinates) + times(flat.mT, inside)
        return grad_taps, grad_basis, None, None


def projectors(bases: Float[Tensor, "*g c r"]) -> Float[Tensor, "*g c c"]:
    """The projectors :math:`R R^T` onto the spans of orthonormal columns, for :func:`grow_by`."""
    return _Projectors.apply(bases)  # pyright: ignore[reportReturnType]


def grow_by(
    taps: Float[Tensor, "g *grid rows c"],
    projector: Float[Tensor, "g c c"],
    axis: int,
    *,
    flipped: bool = False,
) -> Float[Tensor, "g *longer rows c"]:
    """As :func:`grow`, with the projector in place of its basis: in half of the kernel launches.

    Cost: `2 * g * taps * rows * c^2` multiplications and additions; eight operations of torch with
        those of the gradient.
    """
    return _GrowBy.apply(taps, projector, axis + 1, flipped)  # pyright: ignore[reportReturnType]


class _Projectors(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(bases: Tensor) -> Tensor:
        return product(bases, bases.mT)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (bases,) = ctx.saved_tensors
        return _times()(grad + grad.mT, bases)


class _GrowBy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(taps: Tensor, projector: Tensor, axis: int, flipped: bool) -> Tensor:
        inside = product(taps.flatten(1, -2), projector).reshape(taps.shape)
        return _two_taps(taps, inside, axis, flipped)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.axis, ctx.flipped = inputs[2:]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (taps, projector), count = ctx.saved_tensors, grad.shape[ctx.axis] - 1
        grad = grad.contiguous()  # or each product below would copy
        early, late = (grad.narrow(ctx.axis, start, count) for start in (0, 1))
        inside, outside = (late, early) if ctx.flipped else (early, late)
        change = (inside - outside).flatten(1, -2)  # of what is inside of the span
        grad_taps = outside + _times()(change, projector.mT).reshape(taps.shape)
        return grad_taps, _times()(taps.flatten(1, -2).mT, change), None, None


def _times() -> Callable[[Tensor, Tensor], Tensor]:
    return matmul if torch.is_grad_enabled() else product


def last_step(
    taps: Float[Tensor, "g *grid rows c"], axis: int, noise: float
) -> tuple[Float[Tensor, "g c"], Float[Tensor, "g c c"]]:
    r"""Where the projector P of the last step :math:`[P, I-P]` along an axis can be.

    In :math:`W(z) = V(z) (P + (I - P) z)` the first tap has no part outside P and the last none
    inside. So P spans at least the negative and at most the nonpositive eigenvectors of
    :math:`|K_{k-1}| - |K_0|`, with :math:`|A| = (A^\top A)^{1/2}` of all taps at that end, stacked.
    Absolute values, not squares, so that directions of nearly no weight are told apart to full
    precision.

    The other directions are free: of an orthogonal W, V is orthogonal whatever P has of them. In
    one axis V has its steps again, in more axes it need not. They are sorted by the same order of
    the channels in every step, so that P of several steps commute where all is free.

    Cost: two SVDs of the taps at the ends and two eigendecompositions of c channels.

    Args:
        taps: the kernels W, one for each group.
        axis: of the grid.
        noise: eigenvalues up to this size are 0.

    Returns:
        For each direction a number, ascending: -2 if it is in P, 2 if it is not, and in [-1, 1] if
        it is free; and the directions, orthonormal columns.
    """
    channels = taps.shape[-1]
    first, last = (
        _absolute(taps.select(axis + 1, end).reshape(len(taps), -1, channels)) for end in (0, -1)
    )
    values, vectors = torch.linalg.eigh(last - first)
    signs = values.sign() * (values.abs() > noise)
    free = (vectors * (signs == 0)[:, None]) @ vectors.mT
    order = torch.linspace(-1, 1, channels, dtype=taps.dtype, device=taps.device)
    known = (vectors * 2 * signs[:, None]) @ vectors.mT
    return torch.linalg.eigh(known + free * order @ free)


def reflector(kernel: Float[Tensor, "g r c *taps"]) -> Float[Tensor, "g c c *longer"]:
    r"""The taps of :math:`\delta - 2 W^\top * W`: `2 k - 1` for k taps of W, with 0 in the middle.

    Guarantee: symmetric, and orthogonal if W has orthonormal rows: its square is the identity.
    Cost: one product of a `(taps * c, r)` matrix with its transpose.
    """
    (groups, rank, channels), size = kernel.shape[:3], kernel.shape[3:]
    rows = kernel.movedim((1, 2), (-1, -2)).reshape(groups, -1, rank)  # (g, taps * c, r)
    gram = matmul(rows, rows.mT).reshape(groups, *size, channels, *size, channels)
    axes = len(size)
    pairs = [axis for i in range(axes) for axis in (1 + i, 2 + axes + i)]
    gram = gram.permute(0, 1 + axes, 2 + 2 * axes, *pairs)  # (g, c, c, t1, t1', t2, t2', ...)
    # The tap of W^T * W at distance t' - t is the sum of all such products.
    for axis in range(3, 3 + axes):
        gram = _sums_of_diagonals(gram.movedim((axis, axis + 1), (-2, -1))).movedim(-1, axis)
    centre = torch.zeros_like(gram)
    identity = torch.eye(channels, dtype=gram.dtype, device=gram.device)
    centre[(..., *(k - 1 for k in size))] = identity
    # What rounding adds to the norm of W counts four times: a factor below 2 makes up for it.
    return centre - (2 - 8 * torch.finfo(gram.dtype).eps) * gram


def _sums_of_diagonals(a: Tensor) -> Tensor:
    """Of square matrices `(..., k, k)`, all `2 k - 1` from the lower left corner on."""
    k = a.shape[-1]
    shifted = F.pad(a.flip(-2), (0, k)).flatten(-2)[..., : k * (2 * k - 1)]
    return shifted.unflatten(-1, (k, 2 * k - 1)).sum(-2)


def _absolute(a: Tensor) -> Tensor:
    _, values, rows = torch.linalg.svd(a, full_matrices=False)
    return rows.mT @ (values[..., None] * rows)


def shrink(
    taps: Float[Tensor, "g *longer rows c"], basis: Float[Tensor, "g c r"], axis: int
) -> Float[Tensor, "g *grid rows c"]:
    r"""The kernels before their last step, the inverse of :func:`grow`.

    The taps :math:`K_j P + K_{j+1} (I - P)`, without what the ends have on the wrong side of P.
    """
    shorter = taps.shape[axis + 1] - 1
    here, after = taps.narrow(axis + 1, 0, shorter), taps.narrow(axis + 1, 1, shorter)
    difference = (here - after).flatten(1, -2)
    return after + (difference @ basis @ basis.mT).reshape(after.shape)
