r"""Averages, times the inverse of their norm.

An average along one axis is a matrix A >= 0 with rows of sum at most 1, so that
:math:`\|A\|^2 \le \|A\|_1 \|A\|_\infty` is at most the largest sum c of a column; along several
axes the norms multiply. With windows of k entries that do not overlap c = 1 / k, and
:math:`A \sqrt k` has orthonormal rows.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut._arguments import check_axes, whole, wholes
from taut._torch_private import on_its_own

AVERAGES: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE: dict[int, Any] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@functools.lru_cache(maxsize=1024)
@on_its_own
def _inverse_norm(size: int, *options: Any) -> float:
    """The inverse root of the largest sum of a column, of a pool along one axis of this size."""
    with torch.no_grad():
        units = torch.eye(size, dtype=torch.float64, device="cpu")[:, None]
        function = F.adaptive_avg_pool1d if len(options) == 1 else F.avg_pool1d
        columns = function(units, *options)[:, 0].sum(1)
    return 1.0 / math.sqrt(columns.max().item())


def check_pooled(pool: Any, x: Tensor) -> None:
    """Refuse an input without the axes of a pool, or with an axis smaller than its windows."""
    check_axes(x, pool.axes)
    sizes = x.shape[-pool.axes :]
    axes = zip(sizes, pool.kernel_size, pool.stride, pool.padding, strict=True)
    missing = [(k - int(n) - 2 * p, s if pool.ceil_mode else 1) for n, k, s, p in axes]
    if any(rest >= more for rest, more in missing):
        raise ValueError(
            "`kernel_size` must be at most the size of the padded input; got kernel_size="
            f"{pool.kernel_size}, padding={pool.padding}, size {tuple(sizes)}."
        )


class AbstractWindows(nn.Module):
    """The windows of a pool, as those of torch's pools."""

    axes: ClassVar[int]

    def _set_windows(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None,
        padding: int | tuple[int, ...],
        ceil_mode: bool,
    ) -> None:
        self.kernel_size = wholes("kernel_size", kernel_size, self.axes)
        steps = self.kernel_size if stride is None else stride
        self.stride = wholes("stride", steps, self.axes)
        self.padding = wholes("padding", padding, self.axes, least=0)
        self.ceil_mode = ceil_mode
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(
                f"`padding` must be at most half of `kernel_size`; got padding={self.padding}, "
                f"kernel_size={self.kernel_size}."
            )

    def extra_repr(self) -> str:
        """The windows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _ScaledAvgPool(AbstractWindows):
    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self._set_windows(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Average, and multiply by the inverse of the norm."""
        check_pooled(self, input)
        flags = (self.ceil_mode, self.count_include_pad)
        pooled = AVERAGES[self.axes](input, self.kernel_size, self.stride, self.padding, *flags)
        axes = zip(
            input.shape[-self.axes :], self.kernel_size, self.stride, self.padding, strict=True
        )
        return pooled * math.prod(_inverse_norm(int(n), *sizes, *flags) for n, *sizes in axes)


@final
class ScaledAvgPool1d(_ScaledAvgPool):
    """`torch.nn.AvgPool1d` times the inverse of its norm, see :class:`ScaledAvgPool2d`.

    Example:
        >>> ScaledAvgPool1d(4)(torch.ones(1, 1, 4))
        tensor([[[2.]]])
    """

    axes = 1


@final
class ScaledAvgPool2d(_ScaledAvgPool):
    r"""`torch.nn.AvgPool2d` divided by its norm: times k for k x k windows.

    Guarantee: 1-Lipschitz in l2. Where windows do not overlap its rows are orthonormal: signals
        that are constant in each window keep their norm, while `torch.nn.AvgPool2d` divides it
        by k.

    Args:
        kernel_size, stride, padding, ceil_mode, count_include_pad: as of `torch.nn.AvgPool2d`.

    Raises:
        ValueError: if a size is not a positive integer, or one per axis.

    Example:
        >>> ScaledAvgPool2d(2)(torch.ones(1, 1, 2, 2))
        tensor([[[[2.]]]])
    """

    axes = 2


@final
class ScaledAvgPool3d(_ScaledAvgPool):
    """`torch.nn.AvgPool3d` times the inverse of its norm, see :class:`ScaledAvgPool2d`.

    Example:
        >>> ScaledAvgPool3d((1, 2, 2))(torch.ones(1, 1, 1, 2, 2))
        tensor([[[[[2.]]]]])
    """

    axes = 3


def output_sizes(output_size: Any, axes: int) -> tuple[int | None, ...]:
    """The sizes of the output of an adaptive pool; None keeps that of the input."""
    several = isinstance(output_size, Iterable) and not isinstance(output_size, str)
    sizes = tuple(output_size) if several else (output_size,) * axes
    try:
        if len(sizes) != axes:
            raise ValueError
        return tuple(None if n is None else whole("output_size", n) for n in sizes)
    except ValueError:
        raise ValueError(
            f"`output_size` must be a positive integer or None, or {axes} of them; "
            f"got {output_size}."
        ) from None


class _ScaledAdaptiveAvgPool(nn.Module):
    axes: ClassVar[int]

    def __init__(self, output_size: int | tuple[int | None, ...] | None) -> None:
        super().__init__()
        self.output_size = output_sizes(output_size, self.axes)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Average, and multiply by the inverse of the norm."""
        check_axes(input, self.axes)
        spatial = [int(n) for n in input.shape[-self.axes :]]
        sizes = [n if m is None else m for n, m in zip(spatial, self.output_size, strict=True)]
        if sizes == spatial:
            return input
        if all(m % n == 0 for n, m in zip(spatial, sizes, strict=True)):  # copies
            factors = [m // n for n, m in zip(spatial, sizes, strict=True)]
            pooled = F.interpolate(input, scale_factor=factors)
        else:
            pooled = ADAPTIVE[self.axes](input, sizes if self.axes > 1 else sizes[0])
        return pooled * math.prod(_inverse_norm(n, m) for n, m in zip(spatial, sizes, strict=True))

    def extra_repr(self) -> str:
        """The size of the output."""
        return f"output_size={self.output_size}"


@final
class ScaledAdaptiveAvgPool1d(_ScaledAdaptiveAvgPool):
    """`torch.nn.AdaptiveAvgPool1d` times the inverse of its norm.

    Example:
        >>> ScaledAdaptiveAvgPool1d(1)(torch.ones(1, 1, 9))
        tensor([[[3.]]])
    """

    axes = 1


@final
class ScaledAdaptiveAvgPool2d(_ScaledAdaptiveAvgPool):
    """`torch.nn.AdaptiveAvgPool2d` times the inverse of its norm.

    Guarantee: 1-Lipschitz in l2, whatever the size of the input; with orthonormal rows where the
        size of the output divides it.

    Args:
        output_size: as of `torch.nn.AdaptiveAvgPool2d`.

    Raises:
        ValueError: if `output_size` is none.

    Example:
        >>> ScaledAdaptiveAvgPool2d(1)(torch.ones(1, 1, 3, 3))
        tensor([[[[3.]]]])
    """

    axes = 2


@final
class ScaledAdaptiveAvgPool3d(_ScaledAdaptiveAvgPool):
    """`torch.nn.AdaptiveAvgPool3d` times the inverse of its norm.

    Example:
        >>> ScaledAdaptiveAvgPool3d(1)(torch.ones(1, 1, 1, 2, 2))
        tensor([[[[[2.]]]]])
    """

    axes = 3


@final
class ScaledMean(nn.Module):
    r"""Mean over axes, times the root of the number of entries: 1-Lipschitz in l2.

    Args:
        dim: the axes, none of them that of the batch.
        keepdim: whether they stay, with one entry.

    Example:
        >>> ScaledMean((2, 3))(torch.ones(1, 1, 3, 3))
        tensor([[3.]])
    """

    def __init__(self, dim: int | tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Average, and multiply."""
        dims = (self.dim,) if isinstance(self.dim, int) else self.dim
        if not all(-input.dim() <= axis < input.dim() for axis in dims):
            raise ValueError(
                f"`dim` must hold axes of the input; got {self.dim}, shape {tuple(input.shape)}."
            )
        count = math.prod(int(input.shape[axis]) for axis in dims)
        return input.mean(self.dim, self.keepdim) * math.sqrt(count)

    def extra_repr(self) -> str:
        """The axes."""
        return f"dim={self.dim}, keepdim={self.keepdim}"
