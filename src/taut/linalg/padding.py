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


def padded_index(
    n: int, left: int, right: int, mode: str, device: torch.device | str = "cpu"
) -> Int[Tensor, " p"]:
    """Which of the `n` positions of an axis each position of the padded axis copies."""
    index = torch.arange(-left, n + right, device=device)
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


# No shapes in the annotations: TorchScript reads them.
def isometric_mask(x: Tensor, padding: list[int], mode: str) -> Tensor:
    r"""By what an input is multiplied before it is padded, so that the padding is an isometry.

    Padding P copies entries: each column of P has as many ones as its entry has places, its count
    c, and no row has two, so that :math:`P^\top P = \mathrm{diag}(c)`. With
    :math:`D = \mathrm{diag}(c)^{-1/2}`, :math:`(P D)^\top (P D) = D P^\top P D = I`.

    *Counts.* They are products over the axes. Reflection by l on the left copies places 1 to l once
    more; replication copies place 0 l times more; the right is the left of the reversed axis.

    *Rounding.* :math:`c m^2 \le 1`, exactly, for each computed entry m; and m = 1 where c = 1.
    Else, with unit roundoff u, m is the rounded product of :math:`1 - 4u` and :math:`1 / \sqrt{c}`.
    Root, quotient and product are rounded correctly, so that :math:`m \sqrt c \le (1 - 4u)
    (1 + u)^2 / (1 - u) < 1` and :math:`m \sqrt c \ge (1 - 4u) (1 - u)^2 / (1 + u) > 1 - 8u`.
    Numbers of 16 bits are rounded once more, from float32: with their u, :math:`m \sqrt c \le
    (1 - 4u) (1 + u) (1 + 2^{-22}) < 1`.

    Args:
        x: of any number of leading axes.
        padding: `(left, right)` of the last axis, then of the one before it, and so on.
        mode: `"reflect"` or `"replicate"`.

    Returns:
        One number for each place of the padded axes, in the precision of `x`.

    Example:
        >>> isometric_mask(torch.zeros(1, 1, 4), [1, 0], "reflect") ** -2
        tensor([1.0000, 2.0000, 1.0000, 1.0000])
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    axes = len(padding) // 2
    count = torch.ones([1] * axes, dtype=wide, device=x.device)
    for axis in range(axes):
        places = torch.arange(x.shape[x.dim() - 1 - axis], dtype=wide, device=x.device)
        left = _more_copies(places, padding[2 * axis], mode)
        right = _more_copies(places, padding[2 * axis + 1], mode).flip(0)
        shape = [1] * axes
        shape[axes - 1 - axis] = -1
        count = count * (torch.ones_like(places) + left + right).reshape(shape)
    inverse = count.sqrt().reciprocal() * (1.0 - _slack(x.dtype))
    mask = torch.where(count == 1.0, count, inverse)
    return mask if x.dtype == wide else mask.to(x.dtype)


def _more_copies(places: Tensor, padding: int, mode: str) -> Tensor:
    """How often padding on the left copies each place."""
    if mode == "replicate":
        return (places < 1.0) * padding
    return (places >= 1.0) * (places <= padding)


def _slack(dtype: torch.dtype) -> float:
    """4 u, for the unit roundoff u of a precision."""
    if dtype == torch.float64:
        return 2.0**-51
    if dtype == torch.float16:
        return 2.0**-9
    return 2.0**-6 if dtype == torch.bfloat16 else 2.0**-22
