"""Shared by methods that start from the kernel as one matrix, and iterate on a torus."""

import math

from torch import Tensor

from taut.linalg.embedding import polyphase
from taut.parametrizations._base import AbstractParametrization

# The squared norm at a frequency is a trigonometric polynomial of degree d = taps - 1: between n
# points it is at most 1 / cos(pi d / n) times its largest value on them. With n = 4 taps, a norm on
# another torus is at most 4% larger for two taps an axis, 8% for three.
_POSITIONS = 4


def reshaped_sides(owner: AbstractParametrization) -> tuple[int, int]:
    """Sides of the kernel as a matrix `(out_channels, in_channels * taps)`, longer one first."""
    narrow, wide = sorted((owner.in_channels * math.prod(owner.kernel_size), owner.out_channels))
    return wide, narrow


def as_kernel(owner: AbstractParametrization, matrix: Tensor) -> Tensor:
    """A matrix of these sides as the kernel, `(out_channels, in_channels, *kernel_size)`."""
    wide = owner.out_channels > owner.in_channels * math.prod(owner.kernel_size)
    matrix = matrix if wide else matrix.mT
    return matrix.reshape(owner.out_channels, owner.in_channels, *owner.kernel_size)


def as_matrix(owner: AbstractParametrization, kernel: Tensor) -> Tensor:
    """The inverse of :func:`as_kernel`."""
    wide = owner.out_channels > owner.in_channels * math.prod(owner.kernel_size)
    matrix = kernel.reshape(owner.out_channels, -1)
    return matrix if wide else matrix.mT


def folded(owner: AbstractParametrization, kernel: Tensor) -> Tensor:
    """The stride-1 kernel on the downsampled input: the inverse of `owner.unfold`."""
    return polyphase(kernel, owner.stride, (1,) * len(owner.stride))


def overlap(owner: AbstractParametrization) -> float:
    r"""The norm of the map from an input to its patches, :math:`\sqrt{\prod_i k_i / s_i}`.

    On a torus each input position is in exactly :math:`\prod_i k_i / s_i` patches.
    """
    return math.sqrt(math.prod(owner.folded_size))


def torus_of(owner: AbstractParametrization, positions: int | None) -> tuple[int, ...]:
    """Output positions per axis: `positions`, but at least the taps; by default four per tap."""
    if positions is None:  # a single tap acts alike at every frequency: one position is enough
        return tuple(1 if taps == 1 else _POSITIONS * taps for taps in owner.folded_size)
    return tuple(max(positions, taps) for taps in owner.folded_size)
