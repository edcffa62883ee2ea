"""Shared by methods that start from the kernel as one matrix, and iterate on a torus."""

import math

from torch import Tensor

from taut.linalg.embedding import interleaved, polyphase
from taut.parametrizations._base import AbstractParametrization

# The squared norm at a frequency is a trigonometric polynomial of degree d = taps - 1: between n
# points it is at most 1 / cos(pi d / n) times its largest value on them. With n = 4 taps, a norm on
# another torus is at most 4% larger for two taps an axis, 8% for three.
_POSITIONS = 4


def reshaped_sides(owner: AbstractParametrization) -> tuple[int, ...]:
    """Sides of the kernel of a group as a matrix `(out_channels, in_channels * taps)`, sorted.

    The longer one first; behind the groups, if there are several.
    """
    narrow, wide = sorted(_sides(owner))
    return owner.per_group(wide, narrow)


def as_kernel(owner: AbstractParametrization, matrix: Tensor) -> Tensor:
    """A matrix of these sides as the kernel, `(out_channels, in_channels, *kernel_size)`."""
    outputs, inputs = _sides(owner)
    matrix = matrix if outputs > inputs else matrix.mT
    return matrix.reshape(owner.out_channels, -1, *owner.kernel_size)


def as_matrix(owner: AbstractParametrization, kernel: Tensor) -> Tensor:
    """The inverse of :func:`as_kernel`."""
    outputs, inputs = _sides(owner)
    matrix = kernel.reshape(owner.per_group(outputs, inputs))
    return matrix if outputs > inputs else matrix.mT


def folded(owner: AbstractParametrization, kernel: Tensor) -> Tensor:
    """The stride-1 kernel on the downsampled input; zeros lengthen it where strides do not fit."""
    return polyphase(kernel, owner.stride, (1,) * len(owner.stride))


def unfolded(owner: AbstractParametrization, kernel: Tensor) -> Tensor:
    """The inverse of :func:`folded`, without what is beyond the taps of the kernel."""
    kernel = interleaved(kernel, owner.stride)
    return kernel[(..., *(slice(k) for k in owner.kernel_size))]


def folded_size(owner: AbstractParametrization) -> tuple[int, ...]:
    r"""Taps of the kernel on the downsampled input, :math:`\lceil k_i / s_i \rceil`."""
    return tuple(-(-k // s) for k, s in zip(owner.kernel_size, owner.stride, strict=True))


def overlap(owner: AbstractParametrization) -> float:
    r"""The norm of the map from an input to its patches, at most the root of their overlaps.

    On a torus each input position is in at most :math:`\prod_i \lceil k_i / s_i \rceil` patches.
    """
    return math.sqrt(math.prod(folded_size(owner)))


def torus_of(owner: AbstractParametrization, positions: int | None) -> tuple[int, ...]:
    """Output positions per axis: `positions`, but at least the taps; by default four per tap."""
    size = folded_size(owner)
    if positions is None:  # a single tap acts alike at every frequency: one position is enough
        return tuple(1 if taps == 1 else _POSITIONS * taps for taps in size)
    return tuple(max(positions, taps) for taps in size)


def _sides(owner: AbstractParametrization) -> tuple[int, int]:
    """Rows and columns of the kernel of a group as a matrix."""
    inputs = owner.in_channels // owner.groups * math.prod(owner.kernel_size)
    return owner.out_channels // owner.groups, inputs
