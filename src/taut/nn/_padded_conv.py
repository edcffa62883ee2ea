"""The convolution of a padded input, with as few copies as its padding allows."""

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from taut._torch_private import is_watched, shared_hooks, under_autocast
from taut.linalg.derivatives import applied
from taut.linalg.geometry import CONVOLUTIONS
from taut.nn._padding import Pads, Size, pad
from taut.nn._wrap import Unwrap, Wrap, dense_clone, folded, is_channels_last


class Steps(NamedTuple):
    """How the windows of a convolution lie, per spatial axis, and its groups."""

    stride: Size
    dilation: Size
    groups: int


def padded_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, pads: Pads, mode: str, steps: Steps
) -> Tensor:
    """The convolution of `pad(x, pads, mode)`."""
    convolve = CONVOLUTIONS[len(pads.left)]
    if mode == "zeros" and pads.left == pads.right and not any(pads.extend):
        return convolve(x, weight, bias, steps.stride, pads.left, *steps[1:])
    if mode == "circular" and _records_all(x, weight, pads):
        x = pad(x, pads._replace(left=_none(pads), right=_none(pads)), "zeros")
        return _WrappedConvolution.apply(x, weight, bias, pads.left, pads.right, steps)[0]  # pyright: ignore[reportOptionalSubscript]
    return convolve(pad(x, pads, mode), weight, bias, steps.stride, 0, *steps[1:])


def _none(pads: Pads) -> Size:
    return (0,) * len(pads.left)


def _records_all(x: Tensor, weight: Tensor, pads: Pads) -> bool:
    """Whether autograd, and nothing else, records a wrapped convolution by its input."""
    size = x.shape[x.ndim - len(pads.left) :]
    once = all(max(a, b) <= n for a, b, n in zip(pads.left, pads.right, size, strict=True))
    if not (once and x.ndim == weight.ndim and any(pads.left + pads.right)):
        return False
    if not (torch.is_grad_enabled() and x.requires_grad) or is_watched(x) or is_watched(weight):
        return False
    return not under_autocast(x)


class _WrappedConvolution(torch.autograd.Function):
    r"""The convolution of an input with circular padding.

    Autograd would keep pad and convolution apart. The gradient by the padded input is made here, in
    the backward, so that the pads can be added to the interior in place. The padded input is an
    output, so that autograd can save it and take second derivatives by it.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, left: Size, right: Size, steps: Steps
    ) -> tuple[Tensor, Tensor]:
        padded = Wrap.forward(x, left, right)
        convolve = CONVOLUTIONS[len(left)]
        return convolve(padded, weight, bias, steps.stride, 0, *steps[1:]), padded

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        x, weight, bias, *ctx.sides, ctx.steps = inputs
        ctx.bias_shape = None if bias is None else list(bias.shape)
        ctx.seen = _Seen(x) if _comes_from_maxmin(x) else None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], weight)

    @staticmethod
    def backward(ctx, grad: Tensor | None, by_padded: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        padded, weight = ctx.saved_tensors
        if grad is None:
            found, others = by_padded, (None, None)
        else:
            found, *others = _gradients(ctx, grad, padded, weight)
            found = found if by_padded is None or found is None else found + by_padded
        return _by_input(ctx, found), *others, None, None, None


@final
class _Seen:
    """Whether anybody may see the gradient by a tensor: who holds the tensor, or a hook.

    A gradient that only the MaxMin before it reads may have gaps.
    """

    def __init__(self, x: Tensor) -> None:
        self._held, self._hooks = weakref.ref(x), shared_hooks(x)

    def __call__(self) -> bool:
        return bool(self._hooks) or self._held() is not None


def _comes_from_maxmin(x: Tensor) -> bool:
    return x.grad_fn is not None and x.grad_fn.name() == "_MaxMinBackward"


def _gradients(ctx: Any, grad: Tensor, padded: Tensor, weight: Tensor) -> Sequence[Any]:
    """By the padded input, the weight and the bias."""
    steps, nothing = ctx.steps, (0,) * len(ctx.steps.stride)
    return torch.ops.aten.convolution_backward(
        grad, padded, weight, ctx.bias_shape, steps.stride, nothing, steps.dilation, False,
        nothing, steps.groups, ctx.needs_input_grad[:3],
    )  # fmt: skip


def _by_input(ctx: Any, by_padded: Tensor | None) -> Tensor | None:
    left, right = ctx.sides
    if by_padded is None:
        return None
    if torch.is_grad_enabled() or is_watched(by_padded):
        return applied(Unwrap, by_padded, left, right)
    found = folded(by_padded, left, right)
    if ctx.seen is not None and not ctx.seen():
        return found
    return dense_clone(found, channels_last=is_channels_last(found, len(left)))
