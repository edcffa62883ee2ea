"""Conjugate gradients for a batch of symmetric positive definite systems."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, *, start: Tensor, iterations: int = 200
) -> Tensor:
    """Solve `apply(x) = right` for each sample, to the rounding of the dtype.

    It stops where every residual is at most four units of the last place of its right-hand side.

    Args:
        apply: symmetric positive definite and linear, each sample for itself.
        right: the right-hand sides.
        start: the first iterate.
        iterations: at most this number.

    Example:
        >>> conjugate_gradients(lambda x: 4 * x, torch.ones(1, 2), start=torch.zeros(1, 2))
        tensor([[0.2500, 0.2500]])
    """
    axes = tuple(range(1, right.dim()))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(axes, keepdim=True)

    x = start
    residual = right - apply(x)
    direction, size = residual, dot(residual, residual)
    least = dot(right, right) * (4 * torch.finfo(right.dtype).eps) ** 2
    for _ in range(iterations):
        if bool((size <= least).all()):
            break
        image = apply(direction)
        # Finished samples stay: their step is 0 over something positive.
        step = size / dot(direction, image).clamp(min=torch.finfo(right.dtype).tiny)
        x, residual = x + step * direction, residual - step * image
        before, size = size, dot(residual, residual)
        direction = residual + size / before.clamp(min=torch.finfo(right.dtype).tiny) * direction
    return x
