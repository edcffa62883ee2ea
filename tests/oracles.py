"""Slow, obvious computations by another route than the library's. Append; keep each small."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from taut.program import Rounding, operation, trace


def dense_operator(f: Callable[[Tensor], Tensor], input_shape: tuple[int, ...]) -> Tensor:
    """The matrix of an affine map, by pushing the identity through it; float64."""
    size = int(torch.tensor(input_shape).prod())
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *input_shape)
    with torch.no_grad():
        zero = f(torch.zeros(1, *input_shape, dtype=torch.float64))
        return (f(eye) - zero).reshape(size, -1).T


def rounding_of(module: nn.Module, input_shape: tuple[int, ...]) -> Rounding:
    """What is promised of the rounding of one layer."""
    (site,) = trace(module, input_shape).sites()
    return operation(site).rounding(site)
