"""Padding of the spatial axes of a batch, and its adjoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

MODES = ("zeros", "circular", "reflect", "replicate")


@final
@dataclass(frozen=True)
class Padding:
    """What is added to an input: `extend` zeros after it, then `left` and `right` in `mode`.

    Each of `left`, `right` and `extend` has one number per spatial axis; empty means none.
    """

    mode: str = "zeros"
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()
    extend: tuple[int, ...] = ()

    def apply(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Extend, then pad each spatial axis."""
        for axis, (left, right, extend) in enumerate(self._axes(x), start=2):
            before, after = (left, right) if self.mode == "zeros" else (0, 0)
            zeros = [0, 0] * (x.dim() - axis - 1) + [before, extend + after]
            x = torch.nn.functional.pad(x, zeros)
            if self.mode != "zeros":
                index = padded_index(x.shape[axis], left, right, self.mode)
                x = x.index_select(axis, index.to(x.device))
        return x

    def adjoint(self, y: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Apply the adjoint: add each copy to the position that it copies, drop what was added."""
        for axis, (left, right, extend) in enumerate(self._axes(y), start=2):
            extended = y.shape[axis] - left - right
            if self.mode == "zeros" or left == right == 0:
                y = y.narrow(axis, left, extended - extend)
                continue
            index = padded_index(extended, left, right, self.mode).to(y.device)
            shape = (*y.shape[:axis], extended, *y.shape[axis + 1 :])
            y = y.new_zeros(shape).index_add_(axis, index, y).narrow(axis, 0, extended - extend)
        return y

    def filled(self, axes: int) -> "Padding":
        """The same with zeros for what is empty."""
        sides = (side or (0,) * axes for side in (self.left, self.right, self.extend))
        return Padding(self.mode, *sides)

    def _axes(self, x: Tensor) -> Iterator[tuple[int, int, int]]:
        pad = self.filled(x.dim() - 2)
        return zip(pad.left, pad.right, pad.extend, strict=True)


def padded_index(n: int, left: int, right: int, mode: str) -> Int[Tensor, " p"]:
    """Which of the `n` positions of an axis each position of the padded axis copies."""
    index = torch.arange(-left, n + right, device="cpu")
    if mode == "circular":  # may go round several times
        return index % n
    if mode == "replicate":
        return index.clamp(0, n - 1)
    if mode != "reflect":
        raise ValueError(f"`mode` must copy positions of the input; got {mode!r}.")
    if max(left, right) >= n:
        raise ValueError(f"`left` and `right` must be < {n} to reflect; got {left}, {right}.")
    index = index.abs()
    return torch.where(index < n, index, 2 * (n - 1) - index)
