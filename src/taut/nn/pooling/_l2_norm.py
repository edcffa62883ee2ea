r"""The l2 norm of each window, divided by the root of how many windows share an entry.

The norm of a window is a 1-Lipschitz function of it. Where every entry is in at most q windows,
:math:`|y - y'|^2 \le q |x - x'|^2`, so that the norms divided by :math:`\sqrt q` are 1-Lipschitz.
"""

import functools
import math
from fractions import Fraction
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut._arguments import check_axes
from taut._torch_private import inside_transform
from taut.nn.pooling._scaled import (
    ADAPTIVE,
    AVERAGES,
    AbstractWindows,
    check_pooled,
    output_sizes,
)


def _root(radicand: Tensor) -> Tensor:
    """The root, with the gradient 0 where it is 0."""
    if inside_transform() or (torch.is_grad_enabled() and radicand.requires_grad):
        positive = radicand > 0
        return torch.where(positive, radicand, 1.0).sqrt() * positive
    return radicand.sqrt()


def _checked_eps(value: Any) -> float:
    if not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise ValueError(f"`numerical_eps` must be a finite number >= 0; got {value!r}.")
    return float(value)


def _below(value: Fraction) -> float:
    """The largest float not above a fraction."""
    rounded = float(value)
    return rounded if Fraction(rounded) <= value else math.nextafter(rounded, 0.0)


class _L2NormPool(AbstractWindows):
    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        ceil_mode: bool = False,
        *,
        numerical_eps: float = 0.0,
    ) -> None:
        super().__init__()
        self._set_windows(kernel_size, stride, padding, ceil_mode)
        self.numerical_eps = _checked_eps(numerical_eps)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Take the norms, and divide."""
        check_pooled(self, input)
        x, padding = input, self.padding
        if self.ceil_mode:  # an average would divide by less in windows that go over the border
            ends = [self._missing(n, i) for i, n in enumerate(input.shape[-self.axes :])]
            if any(ends):
                sides = zip(padding, ends, strict=True)
                x = F.pad(x, [n for p, end in list(sides)[::-1] for n in (p, p + end)])
                padding = (0,) * self.axes
        squares = AVERAGES[self.axes](x * x, self.kernel_size, self.stride, padding)
        shares = math.prod(-(-k // s) for k, s in zip(self.kernel_size, self.stride, strict=True))
        return _root_of(squares, _below(Fraction(math.prod(self.kernel_size), shares)), self)

    def _missing(self, size: int, axis: int) -> int:
        """Zeros behind an axis that complete its last window, if that begins in front of them."""
        k, s, p = self.kernel_size[axis], self.stride[axis], self.padding[axis]
        rest = size + 2 * p - k
        windows = -(-rest // s)  # one less than there are
        if windows * s >= size + p:
            windows -= 1
        return max(0, windows * s - rest)

    def extra_repr(self) -> str:
        """The windows."""
        return super().extra_repr() + (
            f", numerical_eps={self.numerical_eps}" if self.numerical_eps else ""
        )


def _root_of(squares: Tensor, factor: float | Tensor, pool: "_L2NormPool | _Adaptive") -> Tensor:
    radicand = squares if isinstance(factor, float) and factor == 1 else squares * factor
    eps = pool.numerical_eps**2
    return _root(radicand + eps if eps else radicand)


@final
class L2NormPool1d(_L2NormPool):
    """The l2 norm of each window of a signal, see :class:`L2NormPool2d`.

    Example:
        >>> L2NormPool1d(2)(torch.tensor([[[3.0, 4.0]]]))
        tensor([[[5.]]])
    """

    axes = 1


@final
class L2NormPool2d(_L2NormPool):
    r"""l2-norm pooling: the norm of each window, divided by the root of the window overlap.

    :math:`y = \sqrt{\sum x^2 / q + \epsilon^2}` over a window, with
    :math:`q = \prod \lceil k / s \rceil` over the axes: 1 where windows do not overlap. Inputs are
    `(batch, c, h, w)` or `(c, h, w)`.

    Guarantee: 1-Lipschitz in l2, for every size of the input, and no less than that: without
        overlap the norm of the input stays as it is, and gradients have norm 1. Signs are lost.
        Undivided, windows of 3 x 3 at stride 2 are 2-Lipschitz.
    Cost: three elementwise passes more than an average.

    The gradient at a window of zeros is 0, where the norm has none; with `numerical_eps` the pool
    is smooth. In float32 squares of numbers below 1e-19 vanish, and those above 1e19 overflow.

    Args:
        kernel_size, stride, padding, ceil_mode: as of `torch.nn.AvgPool2d`; zeros of the padding
            count as entries.
        numerical_eps: the value at a window of zeros.

    Raises:
        ValueError: if a size is not a positive integer, or one per axis, `padding` is more than
            half of a window, or `numerical_eps` is below 0.

    Example:
        >>> L2NormPool2d(2)(torch.ones(1, 1, 2, 2))
        tensor([[[[2.]]]])
    """

    axes = 2


@final
class L2NormPool3d(_L2NormPool):
    """The l2 norm of each window of a volume, see :class:`L2NormPool2d`.

    Example:
        >>> L2NormPool3d((1, 2, 2))(torch.ones(1, 1, 1, 2, 2))
        tensor([[[[[2.]]]]])
    """

    axes = 3


@functools.lru_cache(maxsize=1024)
def _windows(size: int, outputs: int) -> tuple[tuple[int, ...], int]:
    """How many entries each window of an adaptive pool has, and how many windows share an entry."""
    ends = [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
    shares = max(sum(a <= i < b for a, b in ends) for i in range(size))
    return tuple(b - a for a, b in ends), shares


class _Adaptive(nn.Module):
    axes: ClassVar[int]

    def __init__(
        self,
        output_size: int | tuple[int | None, ...] | None,
        *,
        numerical_eps: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_size = output_sizes(output_size, self.axes)
        self.numerical_eps = _checked_eps(numerical_eps)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Take the norms, and divide."""
        check_axes(input, self.axes)
        spatial = [int(n) for n in input.shape[-self.axes :]]
        sizes = [n if m is None else m for n, m in zip(spatial, self.output_size, strict=True)]
        if set(sizes) == {1}:  # a sum is the same function for every size, in files too
            squares = (input * input).sum(tuple(range(-self.axes, 0)), keepdim=True)
            return _root_of(squares, 1.0, self)
        squares = ADAPTIVE[self.axes](input * input, sizes if self.axes > 1 else sizes[0])
        pairs = [_windows(n, m) for n, m in zip(spatial, sizes, strict=True)]
        shares = math.prod(share for _, share in pairs)
        if all(len(set(counts)) == 1 for counts, _ in pairs):
            count = math.prod(counts[0] for counts, _ in pairs)
            return _root_of(squares, _below(Fraction(count, shares)), self)
        factor = torch.ones((), dtype=input.dtype, device=input.device)
        for counts, _ in pairs:
            line = torch.tensor(counts, dtype=input.dtype, device=input.device)
            factor = factor[..., None] * line
        return _root_of(squares, factor * _below(Fraction(1, shares)), self)

    def extra_repr(self) -> str:
        """The size of the output."""
        text = f"output_size={self.output_size}"
        return text + (f", numerical_eps={self.numerical_eps}" if self.numerical_eps else "")


@final
class AdaptiveL2NormPool1d(_Adaptive):
    """The l2 norms of as many windows as are asked for; see :class:`AdaptiveL2NormPool2d`.

    Example:
        >>> AdaptiveL2NormPool1d(1)(torch.ones(1, 1, 9))
        tensor([[[3.]]])
    """

    axes = 1


@final
class AdaptiveL2NormPool2d(_Adaptive):
    r"""Adaptive l2-norm pooling: norms of windows for a given output size, 1-Lipschitz.

    Windows are those of `torch.nn.AdaptiveAvgPool2d`. Norms are divided by the root of how many
    windows share an entry: 1 where the size of the output divides that of the input.

    Guarantee: 1-Lipschitz in l2, for every size of the input.
    Cost: three elementwise passes more than an average.

    Args:
        output_size: as of `torch.nn.AdaptiveAvgPool2d`; 1 for a global pool.
        numerical_eps: the value at a window of zeros, as of :class:`L2NormPool2d`.

    Raises:
        ValueError: if `output_size` is none, or `numerical_eps` is below 0.

    Example:
        >>> AdaptiveL2NormPool2d(1)(torch.ones(1, 1, 3, 3))
        tensor([[[[3.]]]])
    """

    axes = 2


@final
class AdaptiveL2NormPool3d(_Adaptive):
    """The l2 norms of as many windows as are asked for; see :class:`AdaptiveL2NormPool2d`.

    Example:
        >>> AdaptiveL2NormPool3d(1)(torch.ones(1, 1, 1, 2, 2))
        tensor([[[[[2.]]]]])
    """

    axes = 3
