"""Factors of an orthogonal convolution, applied to images one after the other."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.geometry import CONVOLUTIONS
from taut.linalg.steps import Move, apply_steps, position_product
from taut.linalg.windows import Windows, downsampled, upsampled


class AbstractFactor(ABC):
    """A linear map of images `(b, *grid, c)`, channels last, with its adjoint."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid2 c2"]:
        """Map an image."""

    @abstractmethod
    def adjoint(self, y: Float[Tensor, "b *grid2 c2"]) -> Float[Tensor, "b *grid c"]:
        """Map an image by the adjoint."""


@final
@dataclass(frozen=True, eq=False)
class Steps(AbstractFactor):
    """Two-tap steps with these bases `(n, c, r)` and moves, in turn: see :func:`apply_steps`."""

    bases: Tensor
    moves: tuple[Move, ...]

    def reversed(self) -> "Steps":
        """The same steps, the last one first."""
        return Steps(self.bases.flip(0), self.moves[::-1])

    def apply(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid2 c2"]:
        """Take the steps."""
        return apply_steps(x, self.bases, self.moves)

    def adjoint(self, y: Float[Tensor, "b *grid2 c2"]) -> Float[Tensor, "b *grid c"]:
        """Take them back, the last one first."""
        back = tuple((axis, -places) for axis, places in self.moves[::-1])
        return apply_steps(y, self.bases.flip(0), back)


@final
@dataclass(frozen=True, eq=False)
class Matrix(AbstractFactor):
    """A matrix times the channels at every position."""

    matrix: Tensor

    def apply(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid2 c2"]:
        """Multiply."""
        return position_product(x, self.matrix)

    def adjoint(self, y: Float[Tensor, "b *grid2 c2"]) -> Float[Tensor, "b *grid c"]:
        """Multiply by the transpose."""
        return position_product(y, self.matrix.mT)


@final
@dataclass(frozen=True, eq=False)
class Downsampling(AbstractFactor):
    """What the first taps of each window read, as channels: see :func:`downsampled`."""

    windows: Windows
    patch: tuple[int, ...]

    def apply(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid2 c2"]:
        """Gather."""
        return downsampled(x, self.windows, self.patch)

    def adjoint(self, y: Float[Tensor, "b *grid2 c2"]) -> Float[Tensor, "b *grid c"]:
        """Scatter; zeros elsewhere."""
        return upsampled(y, self.windows, self.patch)


@final
@dataclass(frozen=True, eq=False)
class Channels(AbstractFactor):
    """The first `kept` of `channels` channels."""

    channels: int
    kept: int

    def apply(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid2 c2"]:
        """Drop the others."""
        return x[..., : self.kept]

    def adjoint(self, y: Float[Tensor, "b *grid2 c2"]) -> Float[Tensor, "b *grid c"]:
        """Zeros for the others."""
        return F.pad(y, (0, self.channels - self.kept))


@final
@dataclass(frozen=True, eq=False)
class Adjoint(AbstractFactor):
    """The adjoint of a factor."""

    factor: AbstractFactor

    def apply(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid2 c2"]:
        """Map an image by the adjoint of the factor."""
        return self.factor.adjoint(x)

    def adjoint(self, y: Float[Tensor, "b *grid2 c2"]) -> Float[Tensor, "b *grid c"]:
        """Map an image by the factor."""
        return self.factor.apply(y)


@final
@dataclass(frozen=True, eq=False)
class Reflection(AbstractFactor):
    r""":math:`x - 2 W^\top W x`, with W a circular convolution with orthonormal rows.

    Its kernel is `(r, c, *taps)`, with taps so many places apart. Two convolutions of r and c
    channels; the map is its own adjoint.
    """

    kernel: Tensor
    places: tuple[int, ...]

    def apply(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *grid2 c2"]:
        """Reflect."""
        taps = self.kernel.shape[2:]
        convolve, dilation = CONVOLUTIONS[len(taps)], self.places
        image = x
        for axis, (k, d) in enumerate(zip(taps, self.places, strict=True), 1):
            image = _wrapped(image, axis, d * (k - 1))
        # y at the outputs and at the d (k - 1) positions before them.
        y = convolve(image.movedim(-1, 1), self.kernel, dilation=dilation)
        back = self.kernel.transpose(0, 1).flip([2 + axis for axis in range(len(taps))])
        return x - 2 * convolve(y, back, dilation=dilation).movedim(1, -1)

    def adjoint(self, y: Float[Tensor, "b *grid2 c2"]) -> Float[Tensor, "b *grid c"]:
        """Reflect."""
        return self.apply(y)


def _wrapped(x: Tensor, axis: int, n: int) -> Tensor:
    """Circular padding by n positions on both sides of an axis."""
    size = x.shape[axis]
    if n > size:
        return x.index_select(axis, torch.arange(-n, size + n, device=x.device) % size)
    return torch.cat((x.narrow(axis, size - n, n), x, x.narrow(axis, 0, n)), axis) if n else x
