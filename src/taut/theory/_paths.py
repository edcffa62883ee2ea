"""Paths of orthogonal kernels between two kernels of one component."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.theory._components import component
from taut.theory._factors import Factorisation, factorise, step_order


@final
@dataclass(frozen=True, eq=False)
class _Turn:
    """A rotation as a product of rotations in planes of two axes, each by its angle."""

    planes: list[tuple[int, int]]
    angles: list[float]
    like: Float[Tensor, "c c"]

    @classmethod
    def of(cls, rotation: Tensor) -> "_Turn":
        """The plane rotations that take the columns of a rotation to the axes, one by one."""
        rest, channels = rotation.clone(), len(rotation)
        planes = [(j, i) for j in range(channels) for i in range(j + 1, channels)]
        angles = []
        for j, i in planes:
            angles.append(math.atan2(rest[i, j].item(), rest[j, j].item()))
            rest[[j, i]] = _plane(angles[-1], rest) @ rest[[j, i]]
        return cls(planes, angles, rotation)

    def part(self, share: float) -> Tensor:
        """The same rotation with all angles times a number in 0, ..., 1."""
        turned = torch.eye(len(self.like)).to(self.like)
        for (j, i), angle in zip(self.planes, self.angles, strict=True):
            turned[:, [j, i]] = turned[:, [j, i]] @ _plane(share * angle, turned).mT
        return turned


def _plane(angle: float, like: Tensor) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return like.new_tensor([[cos, sin], [-sin, cos]])


@final
@dataclass(frozen=True, eq=False)
class _Half:
    """The way from a kernel to the representative of its component."""

    factors: Factorisation
    matrix_turn: _Turn
    frame_turns: list[_Turn]

    @classmethod
    def of(cls, factors: Factorisation, sign: int) -> "_Half":
        channels = len(factors.matrix)
        goal = torch.eye(channels).to(factors.matrix)
        goal[0, 0] = sign
        frames, turns, moved = factors.frames.clone(), [], [0] * len(factors.kernel_size)
        steps = step_order(factors.kernel_size)
        for (_, axis), frame, rank in zip(steps, frames, factors.ranks, strict=True):
            # A step moves the channels outside of P; each axis goes on where it had stopped.
            outside = [(moved[axis] + i) % channels for i in range(channels - rank)]
            moved[axis] += channels - rank
            inside = [i for i in range(channels) if i not in outside]
            target = torch.eye(channels).to(frame)[:, inside + outside]
            if torch.linalg.det(frame.mT @ target) < 0:
                frame[:, 0].neg_()
            turns.append(_Turn.of(frame.mT @ target))
        factors = Factorisation(factors.matrix, frames, factors.ranks, factors.kernel_size)
        return cls(factors, _Turn.of(factors.matrix.mT @ goal), turns)

    def at(self, share: float) -> Tensor:
        old = self.factors
        frames = [
            f @ turn.part(share) for f, turn in zip(old.frames, self.frame_turns, strict=True)
        ]
        stack = torch.stack(frames) if frames else old.frames
        matrix = old.matrix @ self.matrix_turn.part(share)
        return Factorisation(matrix, stack, old.ranks, old.kernel_size).kernel()


@final
@dataclass(frozen=True, eq=False)
class Path:
    """A continuous path of orthogonal kernels, made by :func:`connect`.

    Called with a time in 0, ..., 1 it answers with the kernel there; half-way that is
    :func:`representative` of the component.
    """

    _first: _Half
    _second: _Half

    def __call__(self, time: float) -> Float[Tensor, "c c ..."]:
        """The kernel at a time.

        Raises:
            ValueError: if the time is not in 0, ..., 1.
        """
        if not 0 <= time <= 1:
            raise ValueError(f"`time` must be in 0, ..., 1; got {time}.")
        half, share = (self._first, 2 * time) if time <= 0.5 else (self._second, 2 - 2 * time)
        return half.at(share)


def connect(start: Tensor, end: Tensor) -> Path:
    r"""A path of orthogonal kernels from one kernel to another of the same component.

    Both are taken apart, :math:`H [P_1, I-P_1] [P_2, I-P_2] \dots`; then H turns to the identity
    (with the sign in its first entry) and each P to one that spans axes, so that the steps together
    shift every channel by a whole number of pixels. Each step takes up the channels where the last
    one of its axis had stopped; so the shifts depend on nothing but the sum of the ranks, which the
    winding number is: this is :func:`representative`, whatever the kernel was. The path goes there
    from `start` and back to `end`. It is not the shortest.

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
    here, there = component(start), component(end)
    if here != there:
        raise ValueError(
            f"No path of orthogonal kernels joins `start` and `end`: {here} and {there}."
        )
    first, second = (_Half.of(factorise(k.double()), here.sign) for k in (start, end))
    return Path(first, second)
