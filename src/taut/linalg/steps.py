"""Two-tap orthogonal steps applied to images, without building a kernel."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

Move = tuple[int, int]  # axis of the image (0: rows, 1: columns) and the places it moves by


def apply_steps(
    x: Float[Tensor, "b c h w"], bases: Float[Tensor, "n c r"], moves: Sequence[Move]
) -> Float[Tensor, "b c h w"]:
    r"""Move the part of an image in the span of each basis round its torus, one after the other.

    .. math:: x \leftarrow x + R (\sigma - 1) R^\top x

    with :math:`\sigma` the circular shift. That is the convolution with the taps :math:`P = R
    R^\top` and :math:`I - P`, seen from where I - P stands still: two products of half rank for
    each position and no kernel.

    Guarantee: orthogonal if the bases are. The steps are undone, not stored: the backward pass
        keeps the output alone, and computes each input anew from it, to rounding.
    Cost: `2 c r` multiplications a position and step; twice that for the gradients of `x` and of
        the bases, and once more to undo the steps.

    Args:
        x: images.
        bases: orthonormal columns, one matrix a step, in the order in which they act.
        moves: of each step, the axis (0 for rows, 1 for columns) and by how many places, 1 or -1.

    Returns:
        Images of the same size, in the memory format channels_last.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
        >>> apply_steps(image, torch.ones(1, 1, 1), [(1, 1)])
        tensor([[[[3., 1., 2.]]]])
    """
    # 1x1 convolutions reach the rate of matrix products in this format alone.
    x = x.contiguous(memory_format=torch.channels_last)
    return _Steps.apply(x, bases, tuple(moves))  # pyright: ignore[reportReturnType]


class _Steps(torch.autograd.Function):
    """The steps, of which the backward pass undoes one after the other."""

    @staticmethod
    def forward(x: Tensor, bases: Tensor, moves: tuple[Move, ...]) -> Tensor:
        parts = []
        for part in _parts(x):
            for basis, move in zip(bases, moves, strict=True):
                part = _moved(part, _change(part, basis, move), basis)
            parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.moves = inputs[2]
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, bases = ctx.saved_tensors
        grads_x, grads = [], []
        for part, output in zip(_parts(grad), _parts(y), strict=True):
            grad_x, grad_bases = _undo(part, output, bases, ctx.moves)
            grads_x.append(grad_x)
            grads.append(grad_bases)
        grad_x = grads_x[0] if len(grads_x) == 1 else torch.cat(grads_x)
        return grad_x, sum(grads[1:], start=grads[0]), None


def _parts(x):
    import os

    P = int(os.environ.get("P", "0"))
    if P == 0:
        return (x,)
    return x.split(max(2, P // (x.shape[2] * x.shape[3])))


def _undo(grad, y, bases, moves):
    both = torch.cat((grad.contiguous(memory_format=torch.channels_last), y))
    count, grads = len(y), []
    for basis, (axis, places) in zip(bases.flip(0), reversed(moves), strict=True):
        change = _change(both, basis, (axis, -places))
        before = _moved(both, change, basis)
        size = (*basis.shape, 1, 1)
        outgoing = conv2d_weight(change[count:], size, both[:count])
        incoming = conv2d_weight(change[:count], size, before[count:])
        grads.append((incoming - outgoing)[:, :, 0, 0])
        both = before
    return both[:count], torch.stack(grads[::-1])


def _change(x: Tensor, basis: Tensor, move: Move) -> Tensor:
    """Coordinates in the span: those of the moved image minus those of the image."""
    inside = F.conv2d(x, basis.mT[:, :, None, None].contiguous(memory_format=torch.channels_last))
    axis, places = move
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.roll(inside, places, axis + 2) - inside
    # The same in one pass over the memory.
    change, last = torch.empty_like(inside), inside.shape[axis + 2] - 1
    for start, source, length in (
        ((0, last, 1), (1, 0, last))
        if places == 1
        else (
            (last, 0, 1),
            (0, 1, last),
        )
    ):
        part, moved = (inside.narrow(axis + 2, at, length) for at in (start, source))
        torch.sub(moved, part, out=change.narrow(axis + 2, start, length))
    return change


def _moved(x: Tensor, change: Tensor, basis: Tensor) -> Tensor:
    return F.conv2d(
        change, basis[:, :, None, None].contiguous(memory_format=torch.channels_last)
    ).add_(x)
