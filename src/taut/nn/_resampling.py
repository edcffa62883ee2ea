"""Invertible down- and upsampling: permutations of the entries of an image."""

import math
from typing import ClassVar, final

import torch
from torch import Tensor, fx, nn

from taut._arguments import check_axes, wholes
from taut.linalg.embedding import channels_to_phases, phases_to_channels


class _Resample(nn.Module):
    axes: ClassVar[int]

    def __init__(self, factor: int | tuple[int, ...]) -> None:
        super().__init__()
        self.factor = wholes("factor", factor, self.axes)

    def extra_repr(self) -> str:
        """The factor of each axis."""
        return f"factor={self.factor[0] if len(set(self.factor)) == 1 else self.factor}"

    def _refuse(self, what: str, got: str) -> None:
        raise ValueError(f"`factor` must divide {what}; got {self.extra_repr()}, {got}.")


class _InvertibleDownsample(_Resample):
    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Rearrange the entries."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            self._check(input)
        return phases_to_channels(input, [factor for factor in self.factor])

    def _check(self, input: Tensor) -> None:
        if isinstance(input, fx.Proxy):
            return
        check_axes(input, self.axes)
        sizes = tuple(int(n) for n in input.shape[-self.axes :])
        if any(n % f for n, f in zip(sizes, self.factor, strict=True)):
            self._refuse("the size of the input", f"size {sizes}")


class _InvertibleUpsample(_Resample):
    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Rearrange the entries back."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            self._check(input)
        return channels_to_phases(input, [factor for factor in self.factor])

    def _check(self, input: Tensor) -> None:
        if isinstance(input, fx.Proxy):
            return
        check_axes(input, self.axes)
        channels = int(input.shape[-self.axes - 1])
        if channels % math.prod(self.factor):
            self._refuse("the channels of the input by its product", f"{channels} channels")


@final
class InvertibleDownsample1d(_InvertibleDownsample):
    """Move each block of positions into channels; see :class:`InvertibleDownsample2d`.

    Inputs are `(batch, c, l)` or `(c, l)`.

    Example:
        >>> InvertibleDownsample1d(2)(torch.arange(4.0).reshape(1, 1, 4))
        tensor([[[0., 2.],
                 [1., 3.]]])
    """

    axes = 1


@final
class InvertibleDownsample2d(_InvertibleDownsample):
    r"""Move each block of pixels into channels: a permutation of the input.

    Guarantee: an isometry of l2; the Jacobian is a permutation, and :class:`InvertibleUpsample2d`
        is the inverse, bit for bit.
    Cost: one copy of the input.

    Inputs are `(batch, c, h, w)` or `(c, h, w)`; outputs have `c * rows * columns` channels, where
    `rows` and `columns` are the size of a block, in the order of `torch.nn.PixelUnshuffle`.

    Args:
        factor: size of a block, or a pair (rows, columns).

    Raises:
        ValueError: if `factor` is not made of positive integers, or (forward) does not divide the
            size of the input.

    Reference:
        Jacobsen et al. (2018), *i-RevNet*, section 3.1; arXiv:1802.07088.

    Example:
        >>> InvertibleDownsample2d(2)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 12, 4, 4])
        >>> InvertibleDownsample2d((1, 4))(torch.zeros(3, 8, 8)).shape
        torch.Size([12, 8, 2])
    """

    axes = 2


@final
class InvertibleDownsample3d(_InvertibleDownsample):
    """Move each block of voxels into channels; see :class:`InvertibleDownsample2d`.

    Inputs are `(batch, c, d, h, w)` or `(c, d, h, w)`.

    Example:
        >>> InvertibleDownsample3d((1, 2, 2))(torch.zeros(1, 3, 5, 4, 4)).shape
        torch.Size([1, 12, 5, 2, 2])
    """

    axes = 3


@final
class InvertibleUpsample1d(_InvertibleUpsample):
    """The inverse of :class:`InvertibleDownsample1d`; see :class:`InvertibleUpsample2d`.

    Inputs are `(batch, c, l)` or `(c, l)`.

    Example:
        >>> x = torch.rand(2, 3, 8)
        >>> torch.equal(InvertibleUpsample1d(4)(InvertibleDownsample1d(4)(x)), x)
        True
    """

    axes = 1


@final
class InvertibleUpsample2d(_InvertibleUpsample):
    r"""Move channels into blocks of pixels: the inverse of :class:`InvertibleDownsample2d`.

    Guarantee: an isometry of l2; the Jacobian is a permutation.
    Cost: one copy of the input.

    Inputs are `(batch, c, h, w)` or `(c, h, w)`, in the order of `torch.nn.PixelShuffle`.

    Args:
        factor: size of a block, or a pair (rows, columns).

    Raises:
        ValueError: if `factor` is not made of positive integers, or (forward) its product does not
            divide the channels.

    Reference:
        Jacobsen et al. (2018), *i-RevNet*, section 3.1; arXiv:1802.07088.

    Example:
        >>> InvertibleUpsample2d(2)(torch.zeros(1, 12, 4, 4)).shape
        torch.Size([1, 3, 8, 8])
    """

    axes = 2


@final
class InvertibleUpsample3d(_InvertibleUpsample):
    """The inverse of :class:`InvertibleDownsample3d`; see :class:`InvertibleUpsample2d`.

    Inputs are `(batch, c, d, h, w)` or `(c, d, h, w)`.

    Example:
        >>> InvertibleUpsample3d((1, 2, 2))(torch.zeros(1, 12, 5, 2, 2)).shape
        torch.Size([1, 3, 5, 4, 4])
    """

    axes = 3
