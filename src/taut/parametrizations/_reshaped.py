"""What methods share that start from the kernel as one matrix, and iterate on a torus."""

import math

from torch import Tensor

from taut.linalg.operators import polyphase
from taut.parametrizations._base import AbstractParametrization

# The squared norm at a frequency is a trigonometric polynomial of degree d = taps - 1: between n
# points it is at most 1 / cos(pi d / n) of what it is there. With n = 4 taps, a norm on another
# torus is at most 4% larger for two taps an axis, 8% for three.
_POSITIONS = 4


def reshaped_sides(owner: AbstractParametrization) -> tuple[int, int]:
    """The sides of the kernel as a matrix `(out_channels, in_channels * taps)`, longer one first.

    Example:
        >>> reshaped_sides(taut.RKO(2, 3, (3, 3)))
        (18, 3)
    """
    narrow, wide = sorted((owner.in_channels * math.prod(owner.kernel_size), owner.out_channels))
    return wide, narrow


def as_kernel(owner: AbstractParametrization, matrix: Tensor) -> Tensor:
    """A matrix of these sides as the kernel, `(out_channels, in_channels, *kernel_size)`.

    Example:
        >>> as_kernel(taut.RKO(2, 3, (3, 3)), torch.ones(18, 3)).shape
        torch.Size([3, 2, 3, 3])
    """
    wide = owner.out_channels > owner.in_channels * math.prod(owner.kernel_size)
    matrix = matrix if wide else matrix.mT
    return matrix.reshape(owner.out_channels, owner.in_channels, *owner.kernel_size)


def as_matrix(owner: AbstractParametrization, kernel: Tensor) -> Tensor:
    """The inverse of :func:`as_kernel`.

    Example:
        >>> as_matrix(taut.RKO(2, 3, (3, 3)), torch.ones(3, 2, 3, 3)).shape
        torch.Size([18, 3])
    """
    matrix = kernel.reshape(owner.out_channels, -1)
    return matrix if matrix.shape == reshaped_sides(owner) else matrix.mT


def folded(owner: AbstractParametrization, kernel: Tensor) -> Tensor:
    """The stride-1 kernel on the downsampled input: the inverse of `owner.unfold`.

    Example:
        >>> folded(taut.RKO(2, 3, (4, 4), stride=(2, 2)), torch.ones(3, 2, 4, 4)).shape
        torch.Size([3, 8, 2, 2])
    """
    return polyphase(kernel, owner.stride, (1,) * len(owner.stride))


def overlap(owner: AbstractParametrization) -> float:
    r"""The norm of the map from an input to its patches, :math:`\sqrt{\prod_i k_i / s_i}`.

    Every position of the input stands in at most so many patches, squared; on a torus in just so
    many.

    Example:
        >>> overlap(taut.RKO(2, 3, (3, 3)))
        3.0
    """
    return math.sqrt(math.prod(owner.folded_size))


def torus_of(owner: AbstractParametrization, positions: int | None) -> tuple[int, ...]:
    """Output positions along each axis: as asked for, at least the taps; else four for each tap.

    A single tap acts alike at every frequency: one position tells all.

    Example:
        >>> torus_of(taut.RKO(1, 1, (3, 20)), 16), torus_of(taut.RKO(1, 1, (3, 1)), None)
        ((16, 20), (12, 1))
    """
    if positions is None:
        return tuple(1 if taps == 1 else _POSITIONS * taps for taps in owner.folded_size)
    return tuple(max(positions, taps) for taps in owner.folded_size)


def check_counts(**counts: int | None) -> None:
    """Refuse an option that is not a positive integer, or None for a default.

    Raises:
        ValueError: with its name.

    Example:
        >>> check_counts(iterations=0)
        Traceback (most recent call last):
        ValueError: `iterations` must be a positive integer; got 0.
    """
    for name, count in counts.items():
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"`{name}` must be a positive integer; got {count}.")
