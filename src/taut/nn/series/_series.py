r"""The truncated exponential of a convolution with a skew kernel, and its gradient.

.. math:: y = S(J) x + b, \quad S(J) = \sum_{j \le m} J^j / j!, \quad
    y_m = x, \; y_{j-1} = x + J y_j / j, \; y = y_0

*Gradient.* Let g be that of y. As :math:`J^\top = -J`, that of :math:`y_j` by way of the later
steps is :math:`g_0 = g, g_j = -J g_{j-1} / j`; so that of x is the sum of all :math:`g_j`, and that
of the kernel the sum over j of the one of a convolution with input :math:`y_j` and gradient
:math:`g_{j-1} / j`. The :math:`y_j` are computed again: only x and the kernel are kept.
"""

from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import grad as gradients

from taut._torch_private import inside_function_mode, inside_transform, under_autocast
from taut.linalg.derivatives import applied, keep
from taut.linalg.geometry import CONVOLUTIONS
from taut.nn._padding import Pads, Size, pad

_WEIGHTS = {1: gradients.conv1d_weight, 2: gradients.conv2d_weight, 3: gradients.conv3d_weight}


@final
class SeriesSteps(NamedTuple):
    """The degree m, and how the convolution J is applied."""

    degree: int
    dilation: Size
    groups: int
    padding_mode: str


def series(x: Tensor, weight: Tensor, bias: Tensor | None, steps: SeriesSteps) -> Tensor:
    """S(J) x + bias for a batch x and a skew kernel, with a gradient that keeps x alone.

    Where others watch, and in mixed precision, autograd records each step.
    """
    learned = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    watched = torch.compiler.is_compiling() or inside_transform() or inside_function_mode()
    if not learned or watched or under_autocast(x):
        return _horner(x, weight, bias, steps)
    y = applied(_Series, x, weight, steps)
    assert isinstance(y, Tensor)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(steps.dilation))


def _horner(x: Tensor, weight: Tensor, bias: Tensor | None, steps: SeriesSteps) -> Tensor:
    """S(J) x + bias."""
    y = x
    for j in range(steps.degree, 0, -1):
        y = _next(x, y, j, weight, bias if j == 1 else None, steps)
    return y


def _next(
    x: Tensor, y: Tensor, j: int, weight: Tensor, bias: Tensor | None, steps: SeriesSteps
) -> Tensor:
    """X + J y / j, and a bias."""
    return torch.add(x, _convolved(y, weight, bias, steps), alpha=1 / j)


def _wrapped(x: Tensor, weight: Tensor, steps: SeriesSteps) -> tuple[Tensor, Size]:
    """The image with its circular padding, and the zeros that a convolution adds."""
    nothing = (0,) * len(steps.dilation)
    sides = tuple(d * (k // 2) for d, k in zip(steps.dilation, weight.shape[2:], strict=True))
    if steps.padding_mode == "zeros":
        return x, sides
    return pad(x, Pads(nothing, sides, sides), "circular"), nothing


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, steps: SeriesSteps) -> Tensor:
    """J x, and a bias."""
    image, zeros = _wrapped(x, weight, steps)
    convolve = CONVOLUTIONS[len(zeros)]
    return convolve(image, weight, bias, 1, zeros, steps.dilation, steps.groups)


def _weight_gradient(x: Tensor, weight: Tensor, grad: Tensor, steps: SeriesSteps) -> Tensor:
    """Of J x in the kernel."""
    image, zeros = _wrapped(x, weight, steps)
    options = {"padding": zeros, "dilation": steps.dilation, "groups": steps.groups}
    return _WEIGHTS[len(zeros)](image, list(weight.shape), grad, **options)


class _Series(torch.autograd.Function):
    """S(J) x; its gradient is made of differentiable functions, for second derivatives."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, steps: SeriesSteps) -> Tensor:
        return _horner(x, weight, None, steps)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, SeriesSteps], output: Tensor) -> None:
        x, weight, ctx.steps = inputs
        keep(ctx, x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        learned, steps = ctx.needs_input_grad[1], ctx.steps
        values = [x]  # y_m to y_1
        for j in range(steps.degree, 1, -1) if learned else ():
            values.append(_next(x, values[-1], j, weight, None, steps))
        total, kernel = grad, None
        for j in range(1, steps.degree + 1):
            grad = grad / j
            if learned:
                part = _weight_gradient(values.pop(), weight, grad, steps)
                kernel = part if kernel is None else kernel + part
            grad = -_convolved(grad, weight, None, steps)
            total = total + grad
        return total, kernel, None

    @staticmethod
    def tangent(ctx, tangent: Tensor | None, moved: Tensor | None, _: Any) -> Tensor:
        (x, weight), steps = ctx.saved_tensors, ctx.steps
        start = torch.zeros_like(x) if tangent is None else tangent
        value, change = x, start  # y_m to y_1, and how they change
        for j in range(steps.degree, 0, -1):
            change = _next(start, change, j, weight, None, steps)
            if moved is not None:
                change = change + _convolved(value, moved, None, steps) / j
            value = _next(x, value, j, weight, None, steps)
        return change
