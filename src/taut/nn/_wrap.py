"""Circular padding with one copy, and its adjoint."""

from typing import Any

import torch
from torch import Tensor

from taut.linalg.derivatives import applied, batched_linear
from taut.linalg.rates import counts_launches
from taut.nn._gathered_pad import Size, gathered


def is_channels_last(x: Tensor, axes: int) -> bool:
    """Whether channels lie last in memory, also for tensors inside `torch.func.vmap`."""
    if axes == 1 or x.ndim != axes + 2:
        return False
    return x.stride(1) == 1 and x.stride(-1) >= x.shape[1]  # not so for one pixel, channels first


def new_padded(x: Tensor, left: Size, right: Size, *, channels_last: bool) -> Tensor:
    """A tensor of the padded size of `x`, with nothing in it yet."""
    size = x.shape[x.ndim - len(left) :]
    size = tuple(map(sum, zip(left, size, right, strict=True)))
    if channels_last:
        return x.new_empty(x.shape[0], *size, x.shape[1]).movedim(-1, 1)
    return x.new_empty(*x.shape[: -len(size)], *size)


def interior(y: Tensor, left: Size, right: Size) -> Tensor:
    """The part of a padded tensor that lies between the pads."""
    for axis, (a, b) in enumerate(zip(left, right, strict=True), y.ndim - len(left)):
        y = y.narrow(axis, a, y.shape[axis] - a - b)
    return y


def write_borders(y: Tensor, left: Size, right: Size) -> None:
    """Copy the ends of the interior of a padded tensor to its pads."""
    axes, first = len(left), y.ndim - len(left)
    parts = [y]  # of each axis: what lies between the pads of all axes before it
    for axis, (a, b) in enumerate(zip(left, right, strict=True), first):
        parts.append(parts[-1].narrow(axis, a, y.shape[axis] - a - b))
    for i in reversed(range(axes)):
        part, axis = parts[i], first + i
        n = y.shape[axis] - left[i] - right[i]
        if left[i]:
            part.narrow(axis, 0, left[i]).copy_(part.narrow(axis, n, left[i]))
        if right[i]:
            part.narrow(axis, left[i] + n, right[i]).copy_(part.narrow(axis, left[i], right[i]))


def folded(y: Tensor, left: Size, right: Size) -> Tensor:
    """Add each pad of `y`, in place, to what it is a copy of; the interior, as a view of `y`."""
    for axis, (a, b) in enumerate(zip(left, right, strict=True), y.ndim - len(left)):
        n = y.shape[axis] - a - b
        if a:
            y.narrow(axis, n, a).add_(y.narrow(axis, 0, a))
        if b:
            y.narrow(axis, a, b).add_(y.narrow(axis, a + n, b))
        y = y.narrow(axis, a, n)
    return y


def dense_clone(x: Tensor, *, channels_last: bool) -> Tensor:
    """A copy without gaps, with channels last in memory or first."""
    if channels_last:
        return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
    return x.clone(memory_format=torch.contiguous_format)


class LinearInSides(torch.autograd.Function):
    """A linear operation, of which the arguments behind the tensor are the sizes of its pads."""

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Size, Size], output: Tensor) -> None:
        ctx.sides = inputs[1:]


class Wrap(LinearInSides):
    """Circular padding with one copy forward and one backward; torch's takes several."""

    @staticmethod
    def forward(x: Tensor, left: Size, right: Size) -> Tensor:
        last = is_channels_last(x, len(left))
        if counts_launches(x.device):
            return gathered(x, left, right, channels_last=last)
        y = new_padded(x, left, right, channels_last=last)
        interior(y, left, right).copy_(x)
        write_borders(y, left, right)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return applied(Unwrap, grad, *ctx.sides), None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_: Any) -> Tensor:
        return applied(Wrap, tangent, *ctx.sides)

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        return batched_linear(Wrap, in_dims[0], *args)


class Unwrap(LinearInSides):
    """The adjoint of `Wrap`: adds each copy to its original."""

    @staticmethod
    def forward(y: Tensor, left: Size, right: Size) -> Tensor:
        last, first = is_channels_last(y, len(left)), y.ndim - len(left)
        for axis, (a, b) in enumerate(zip(left, right, strict=True), first):
            if not (a or b):
                continue
            n = y.shape[axis] - a - b
            x = dense_clone(y.narrow(axis, a, n), channels_last=last)
            x.narrow(axis, n - a, a).add_(y.narrow(axis, 0, a))
            x.narrow(axis, 0, b).add_(y.narrow(axis, a + n, b))
            y = x
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return applied(Wrap, grad, *ctx.sides), None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_: Any) -> Tensor:
        return applied(Unwrap, tangent, *ctx.sides)

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        return batched_linear(Unwrap, in_dims[0], *args)
