"""Paths of orthogonal kernels between two kernels of one component."""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut._arguments import unit_share
from taut.linalg.block import step_order
from taut.theory._components import component
from taut.theory._factors import Factorisation, factorise

_Turn = list[tuple[list[int], float]]  # rotations in planes of two axes, each by its angle


def _turn(rotation: Tensor) -> _Turn:
    """The plane rotations that take the columns of a rotation to the axes, one by one."""
    rest, channels, turn = rotation.clone(), len(rotation), []
    for j in range(channels):
        for i in range(j + 1, channels):
            angle = math.atan2(rest[i, j].item(), rest[j, j].item())
            rest[[j, i]] = _plane(angle, rest) @ rest[[j, i]]
            turn.append(([j, i], angle))
    return turn


def _turned(matrix: Tensor, turn: _Turn, share: float) -> Tensor:
    """A matrix times a rotation with all of its angles times a number from 0 to 1."""
    matrix = matrix.clone()
    for axes, angle in turn:
        matrix[:, axes] = matrix[:, axes] @ _plane(share * angle, matrix).mT
    return matrix


def _plane(angle: float, like: Tensor) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return like.new_tensor([[cos, sin], [-sin, cos]])


@final
@dataclass(frozen=True, eq=False)
class _Half:
    """The path from a kernel to the representative of its component."""

    factors: Factorisation
    matrix_turn: _Turn
    frame_turns: list[_Turn]

    @classmethod
    def of(cls, factors: Factorisation, sign: int) -> "_Half":
        channels = len(factors.matrix)
        goal = torch.eye(channels, device="cpu").to(factors.matrix)
        goal[0, 0] = sign
        frames, turns, moved = factors.frames.clone(), [], [0] * len(factors.kernel_size)
        steps = step_order(factors.kernel_size)
        for (_, axis), frame, rank in zip(steps, frames, factors.ranks, strict=True):
            # A step moves the channels outside of P; each axis goes on where it had stopped.
            outside = [(moved[axis] + i) % channels for i in range(channels - rank)]
            moved[axis] += channels - rank
            inside = [i for i in range(channels) if i not in outside]
            target = torch.eye(channels, device="cpu").to(frame)[:, inside + outside]
            if torch.linalg.det(frame.mT @ target) < 0:
                frame[:, 0].neg_()
            turns.append(_turn(frame.mT @ target))
        return cls(replace(factors, frames=frames), _turn(factors.matrix.mT @ goal), turns)

    def at(self, share: float) -> Tensor:
        old = self.factors
        pairs = zip(old.frames, self.frame_turns, strict=True)
        frames = [_turned(frame, turn, share) for frame, turn in pairs]
        matrix = _turned(old.matrix, self.matrix_turn, share)
        return replace(
            old, matrix=matrix, frames=torch.stack(frames) if frames else old.frames
        ).kernel()


@final
@dataclass(frozen=True, eq=False)
class KernelPath:
    """A continuous path of orthogonal kernels, made by :func:`connect`.

    Called with a time from 0 to 1 it returns the kernel there; half-way that is
    :func:`representative` of the component.
    """

    _first: _Half
    _second: _Half

    def __call__(self, time: float) -> Float[Tensor, "c c ..."]:
        """The kernel at a time.

        Raises:
            ValueError: if the time is not from 0 to 1.
        """
        time = unit_share("time", time)
        half, share = (self._first, 2 * time) if time <= 0.5 else (self._second, 2 - 2 * time)
        return half.at(share)


def connect(start: Tensor, end: Tensor) -> KernelPath:
    r"""A path of orthogonal kernels from one kernel to another of the same component.

    Both are factorised, :math:`H [P_1, I-P_1] [P_2, I-P_2] \dots`; then H turns to the identity
    (with the sign in its first entry) and each P to one that spans axes, so that the steps together
    shift every channel by a whole number of pixels. Each step takes the channels where the last one
    of its axis had stopped, so the shifts depend on the sum of the ranks alone, which is the
    winding number: the result is :func:`representative`. The path goes there from `start` and back
    to `end`. It is not the shortest.

    Guarantee: every kernel on the path is orthogonal to rounding, and the path has a speed limit
        (rotations by c (c - 1) / 2 angles in each factor).
    Cost: :func:`factorise`, and c^2 / 2 rotations of planes for each factor, there and at each
        time.

    Args:
        start: `(c, c, *kernel_size)`, orthogonal.
        end: of the same shape.

    Returns:
        The path, in float64.

    Raises:
        ValueError: if the components differ: then there is no path, of kernels of any size, on
            which no singular value gets to 0. And where :func:`factorise` does.

    Example:
        >>> start = taut.BCOP(3, 3, (3,)).weight()
        >>> path = connect(start, start.flip(2))
        >>> component(path(0.2)) == component(start)
        True
    """
    if start.shape != end.shape:
        raise ValueError(
            "`start` and `end` must have one shape; "
            f"got {tuple(start.shape)} and {tuple(end.shape)}."
        )
    first, second = component(start), component(end)
    if first != second:
        raise ValueError(
            f"No path of orthogonal kernels connects `start` and `end`: {first} and {second}."
        )
    return KernelPath(*(_Half.of(factorise(k.double()), first.sign) for k in (start, end)))
