"""Two-tap orthogonal steps applied to images, without building a kernel."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from taut._torch_private import has_batched_gradients
from taut.linalg.derivatives import applied, keep

Move = tuple[int, int]  # axis of the image and the places it moves by
Kernel = tuple[Tensor, Tensor]  # into the coordinates of a span, and out of them

# Each thread of a CPU takes images in parts of so many numbers or positions, whichever are more, so
# that they stay in its cache from step to step.
_PART_NUMBERS, _PART_POSITIONS = 1 << 18, 1 << 10
# Positions that a 1x1 convolution sees as one row: it is slower with fewer; too few are all in one.
_ROW, _SHORT_ROW = 64, 15


def apply_steps(
    x: Float[Tensor, "b *grid c"], bases: Float[Tensor, "n c r"], moves: Sequence[Move]
) -> Float[Tensor, "b *grid c"]:
    r"""Move the part of an image in the span of each basis round its torus, one after the other.

    .. math:: x \leftarrow x + R (\sigma - 1) R^\top x

    with :math:`\sigma` the circular shift along an axis of the grid by the places that `moves` has
    for the step. That is the convolution with the taps :math:`P = R R^\top` and :math:`I - P`, seen
    from where I - P stands still: two products of half rank for each position and no kernel.
    Channels are last.

    Guarantee: orthogonal if the bases are. The steps are undone, not stored: the backward pass
        computes each input anew from the output, to rounding.
    Cost: `2 c r` multiplications a position and step; twice that for the gradients of `x` and of
        the bases, and half of it to undo the steps. Kept for the backward pass: the output, and
        `r` numbers a position and step.
    """
    if not bases.shape[2]:  # spans of nothing
        return x
    return applied(_Steps, x, bases, tuple(moves))[0]


def turned(x: Tensor, axis: int, places: int) -> Tensor:
    """As torch.roll along one axis, of which the compiler mistakes the memory format."""
    places %= x.shape[axis]
    return torch.cat(x.tensor_split((-places,), axis)[::-1], axis) if places else x


def position_product(x: Float[Tensor, "b *grid c"], matrix: Float[Tensor, "o c"]) -> Tensor:
    """A matrix times the channels at every position, `(b, *grid, o)`: a 1x1 convolution.

    On a CPU these reach the rate of the fastest matrix products.
    """
    return _product(x, _kernel(matrix))


class _Steps(torch.autograd.Function):
    """The steps, and the change of coordinates that each of them made."""

    @staticmethod
    def forward(x: Tensor, bases: Tensor, moves: tuple[Move, ...]) -> tuple[Tensor, ...]:
        y, kernels = x.new_empty(x.shape), _kernels(bases)
        # One by one: systems are slow to give memory in very large pieces.
        changes = [x.new_empty((*x.shape[:-1], bases.shape[2])) for _ in moves]
        for at in _parts(x):
            part = x[at].contiguous()
            for change, kernel, move in zip(changes, kernels, moves, strict=True):
                own = _change_into(change[at], part, kernel, move)
                part = _product(own, kernel[1]).add_(part)
            y[at] = part
        return y, *changes

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.moves = inputs[2]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # the changes are large, their gradient would be zeros
        keep(ctx, inputs[1], *output)

    @staticmethod
    def backward(ctx, grad: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return None, None, None
        bases, y, *changes = ctx.saved_tensors
        undo = [
            (kernel, (axis, -places))
            for kernel, (axis, places) in zip(_kernels(bases), ctx.moves, strict=True)
        ][::-1]
        # To be differentiated again, the changes are to be functions of y.
        if torch.is_grad_enabled() or has_batched_gradients(grad):
            return *_undone(grad, y, None, undo), None
        grad_x, grad_bases = torch.empty_like(y), torch.zeros_like(bases)
        for at in _parts(y):
            grad_x[at], part = _undone(grad[at], y[at], [change[at] for change in changes], undo)
            grad_bases += part
        return grad_x, grad_bases, None

    @staticmethod
    def tangent(
        ctx, tangent: Tensor | None, rotation: Tensor | None, _: Any
    ) -> tuple[Tensor | None, ...]:
        bases, x, *changes = ctx.saved_tensors
        for basis, (axis, places) in zip(bases.flip(0), ctx.moves[::-1], strict=True):
            x = _moved(x, basis, (axis, -places))
        tangent = torch.zeros_like(x) if tangent is None else tangent
        for i, (basis, move) in enumerate(zip(bases, ctx.moves, strict=True)):
            tangent = _moved(tangent, basis, move)
            if rotation is not None:
                tangent = tangent + _turning(x, basis, rotation[i], move)
            x = _moved(x, basis, move)
        return tangent, *[None] * len(changes)


def _moved(x: Tensor, basis: Tensor, move: Move) -> Tensor:
    """One step, of functions that can be differentiated."""
    change = _shifted(x @ basis, move)
    return x + change @ basis.mT


def _turning(x: Tensor, basis: Tensor, rotation: Tensor, move: Move) -> Tensor:
    """How a step changes with its basis."""
    return _shifted(x @ basis, move) @ rotation.mT + _shifted(x @ rotation, move) @ basis.mT


def _shifted(x: Tensor, move: Move) -> Tensor:
    """The moved image minus the image."""
    return turned(x, move[0] + 1, move[1]) - x


def _undone(
    grad: Tensor, y: Tensor, changes: list[Tensor] | None, undo: Sequence[tuple[Kernel, Move]]
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the bases, going back step by step from the output y."""
    grads = []
    if not has_batched_gradients(grad):
        grad = grad.contiguous()
    for step, (kernel, move) in enumerate(undo, 1):
        # The adjoint of a step is its inverse, for the gradient as for the image.
        own = -_change(y, kernel, move) if changes is None else changes[-step]
        outgoing = conv2d_weight(_rows(own), kernel[1].shape, _rows(grad))
        change = _change(grad, kernel, move)
        if changes is None:
            grad, y = grad + _product(change, kernel[1]), y - _product(own, kernel[1])
        else:  # the products are new: no other memory is needed
            grad = _product(change, kernel[1]).add_(grad)
            undone = _product(own, kernel[1])
            y = torch.sub(y, undone, out=undone)
        incoming = conv2d_weight(_rows(change), kernel[1].shape, _rows(y))
        grads.append((outgoing + incoming)[:, :, 0, 0])
    return grad, torch.stack(grads[::-1])


def _kernels(bases: Tensor) -> list[Kernel]:
    pairs = ((basis.mT, basis) for basis in bases.unbind())
    return [(_kernel(into), _kernel(out)) for into, out in pairs]


def _kernel(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None].contiguous(memory_format=torch.channels_last)


def _parts(x: Tensor) -> list[slice]:
    if torch.compiler.is_compiling():
        return [slice(None)]
    count = len(x)
    if x.device.type == "cpu":
        numbers = torch.get_num_threads() * max(_PART_NUMBERS, _PART_POSITIONS * x.shape[-1])
        count = numbers // x[0].numel()
    count = max(1, count)
    return [slice(start, start + count) for start in range(0, len(x), count)]


def _change(x: Tensor, kernel: Kernel, move: Move) -> Tensor:
    """Coordinates in the span: those of the moved image minus those of the image."""
    inside = _product(x, kernel[0])
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or has_batched_gradients(inside):
        return turned(inside, move[0] + 1, move[1]) - inside
    return _difference_into(torch.empty_like(inside), inside, move)


def _change_into(change: Tensor, x: Tensor, kernel: Kernel, move: Move) -> Tensor:
    """The same, written to `change`."""
    if torch.compiler.is_compiling():
        return change.copy_(_change(x, kernel, move))
    return _difference_into(change, _product(x, kernel[0]), move)


def _difference_into(change: Tensor, inside: Tensor, move: Move) -> Tensor:
    """The moved image minus the image, in one pass over the memory."""
    axis, n = move[0] + 1, inside.shape[move[0] + 1]
    places = move[1] % n
    for start, source, count in ((places, 0, n - places), (0, n - places, places)):
        here, there = (inside.narrow(axis, at, count) for at in (start, source))
        torch.sub(there, here, out=change.narrow(axis, start, count))
    return change


def _product(x: Tensor, kernel: Tensor) -> Tensor:
    """A 1x1 convolution: a matrix times the channels at every position."""
    y = F.conv2d(_rows(x), kernel)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(kernel))


def _rows(x: Tensor) -> Tensor:
    """The same positions as images of one row, of a length that convolutions are quick on."""
    images, *_, length, channels = x.shape
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        rows = x.reshape(images, -1, length, channels)
    else:
        positions = math.prod(x.shape[:-1])
        divisors = (n for n in range(_ROW, _SHORT_ROW, -1) if positions % n == 0)
        rows = x.reshape(-1, 1, next(divisors, positions), channels)
    return rows.permute(0, 3, 1, 2)
