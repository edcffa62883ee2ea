"""Factors of an orthogonal convolution, applied to images one after the other."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

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
