"""Two-tap orthogonal steps applied to images, without building a kernel."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from taut._torch_private import has_batched_gradients

Move = tuple[int, int]  # axis of the image (0: rows, 1: columns) and the places it moves by
Kernel = tuple[Tensor, Tensor]  # into the coordinates of a span, and out of them

# Each thread of a CPU takes images in parts of so many numbers or positions, whichever are more, so
# that they stay in its cache from step to step.
_PART_NUMBERS, _PART_POSITIONS = 1 << 18, 1 << 10
# Positions that a 1x1 convolution sees as one row: it is slower with fewer and with more.
_ROW = 64
# In which 1x1 convolutions reach the rate of matrix products.
_FORMAT = torch.channels_last


def apply_steps(
    x: Float[Tensor, "b c h w"], bases: Float[Tensor, "n c r"], moves: Sequence[Move]
) -> Float[Tensor, "b c h w"]:
    r"""Move the part of an image in the span of each basis round its torus, one after the other.

    .. math:: x \leftarrow x + R (\sigma - 1) R^\top x

    with :math:`\sigma` the circular shift along the axis (0 for rows, 1 for columns) by 1 or -1
    places that `moves` has for the step. That is the convolution with the taps :math:`P = R
    R^\top` and :math:`I - P`, seen from where I - P stands still: two products of half rank for
    each position and no kernel.

    Guarantee: orthogonal if the bases are. The steps are undone, not stored: the backward pass
        computes each input anew from the output, to rounding.
    Cost: `2 c r` multiplications a position and step; twice that for the gradients of `x` and of
        the bases, and half of it to undo the steps. Kept for the backward pass: the output, and
        `r` numbers a position and step. The output is in the memory format channels_last.
    """
    return _Steps.apply(x, bases, tuple(moves))[0]  # pyright: ignore[reportOptionalSubscript]


def turned(x: Tensor, axis: int, places: int) -> Tensor:
    """As torch.roll along one axis, of which the compiler mistakes the memory format."""
    places %= x.shape[axis]
    return torch.cat(x.tensor_split((-places,), axis)[::-1], axis) if places else x


class _Steps(torch.autograd.Function):
    """The steps, and the change of coordinates that each of them made."""

    @staticmethod
    def forward(x: Tensor, bases: Tensor, moves: tuple[Move, ...]) -> tuple[Tensor, Tensor]:
        y, kernels = torch.empty_like(x, memory_format=_FORMAT), _kernels(bases)
        b, _, h, w = x.shape
        changes = x.new_empty(len(moves), b, h, w, bases.shape[2]).permute(0, 1, 4, 2, 3)
        for at in _parts(x):
            part = x[at].contiguous(memory_format=_FORMAT)
            for change, kernel, move in zip(changes, kernels, moves, strict=True):
                change[at] = _change(part, kernel, move)
                part = _product(change[at], kernel[1]).add_(part)
            y[at] = part
        return y, changes

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.moves = inputs[2]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, changes, bases = ctx.saved_tensors
        undo = [
            (kernel, (axis, -places))
            for kernel, (axis, places) in zip(_kernels(bases), ctx.moves, strict=True)
        ][::-1]
        # To be differentiated again, the changes are to be functions of y.
        if torch.is_grad_enabled() or has_batched_gradients(grad):
            return *_undone(grad, y, None, undo), None
        grad_x, grad_bases = torch.empty_like(y), torch.zeros_like(bases)
        for at in _parts(y):
            grad_x[at], part = _undone(grad[at], y[at], changes[:, at], undo)
            grad_bases += part
        return grad_x, grad_bases, None


def _undone(
    grad: Tensor, y: Tensor, changes: Tensor | None, undo: Sequence[tuple[Kernel, Move]]
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the bases, going back step by step from the output y."""
    grads = []
    if not has_batched_gradients(grad):
        grad = grad.contiguous(memory_format=_FORMAT)
    for step, (kernel, move) in enumerate(undo, 1):
        # The adjoint of a step is its inverse, for the gradient as for the image.
        own = -_change(y, kernel, move) if changes is None else changes[-step]
        outgoing = conv2d_weight(_rows(own), kernel[1].shape, _rows(grad))
        change = _change(grad, kernel, move)
        grad = grad + _product(change, kernel[1])
        y = y - _product(own, kernel[1])
        incoming = conv2d_weight(_rows(change), kernel[1].shape, _rows(y))
        grads.append((outgoing + incoming)[:, :, 0, 0])
    return grad, torch.stack(grads[::-1])


def _kernels(bases: Tensor) -> list[Kernel]:
    pairs = ((basis.mT, basis) for basis in bases.unbind())
    return [(_kernel(into), _kernel(out)) for into, out in pairs]


def _kernel(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None].contiguous(memory_format=_FORMAT)


def _parts(x: Tensor) -> list[slice]:
    if torch.compiler.is_compiling():
        return [slice(None)]
    count = len(x)
    if x.device.type == "cpu":
        numbers = torch.get_num_threads() * max(_PART_NUMBERS, _PART_POSITIONS * x.shape[1])
        count = numbers // x[0].numel()
    count = max(1, count)
    return [slice(start, start + count) for start in range(0, len(x), count)]


def _change(x: Tensor, kernel: Kernel, move: Move) -> Tensor:
    """Coordinates in the span: those of the moved image minus those of the image."""
    axis, places = move[0] + 2, move[1]
    inside = _product(x, kernel[0])
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or has_batched_gradients(inside):
        return turned(inside, axis, places) - inside
    # The same in one pass over the memory.
    change, last = torch.empty_like(inside), inside.shape[axis] - 1
    first, second = (inside.narrow(axis, start, last) for start in (0, 1))
    start, end = (inside.narrow(axis, place, 1) for place in (0, last))
    if places == 1:
        torch.sub(first, second, out=change.narrow(axis, 1, last))
        torch.sub(end, start, out=change.narrow(axis, 0, 1))
    else:
        torch.sub(second, first, out=change.narrow(axis, 0, last))
        torch.sub(start, end, out=change.narrow(axis, last, 1))
    return change


def _product(x: Tensor, kernel: Tensor) -> Tensor:
    """A 1x1 convolution: a matrix times the channels at every position."""
    y = F.conv2d(_rows(x), kernel)
    return y.permute(0, 2, 3, 1).reshape(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    """The same positions as images of one row, of a length that convolutions are quick on."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return x
    count, channels, height, width = x.shape
    lines = next(
        k for k in range(height, 0, -1) if height % k == 0 and (k == 1 or k * width <= _ROW)
    )
    rows = x.permute(0, 2, 3, 1).reshape(count * (height // lines), 1, lines * width, channels)
    return rows.permute(0, 3, 1, 2)
