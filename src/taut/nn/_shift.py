"""Parts of the channels of an image, each moved by one position along an axis."""

from typing import final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import whole
from taut._torch_private import inside_function_mode
from taut.linalg.geometry import CONVOLUTIONS

_MODES = ("circular", "zeros")


def shift_kernel(channels: int, moved: int, axes: int) -> Tensor:
    """The shift as a convolution of each channel by itself: `(channels, 1, 3, ...)` zeros and ones.

    Example:
        >>> shift_kernel(3, 1, 1)[:, 0]
        tensor([[1., 0., 0.],
                [0., 0., 1.],
                [0., 1., 0.]])
    """
    centre = (3**axes - 1) // 2
    taps = [centre] * channels
    for part in range(2 * axes):
        step = 3 ** (axes - 1 - part // 2)
        for channel in range(part * moved, (part + 1) * moved):
            taps[channel] += step if part % 2 else -step  # what moves forwards is read from behind
    rows = [[float(t == tap) for t in range(3**axes)] for tap in taps]
    return torch.tensor(rows, device="cpu").reshape(channels, 1, *[3] * axes)


class _Shift(nn.Module):
    axes: int
    __constants__ = ("axes",)  # of TorchScript

    def __init__(self, moved: int, padding_mode: str = "circular") -> None:
        super().__init__()
        self.moved = whole("moved", moved)
        if padding_mode not in _MODES:
            raise ValueError(f"`padding_mode` must be 'circular' or 'zeros'; got {padding_mode!r}.")
        self.padding_mode = padding_mode

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Move the parts."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            self._check(input)
            if inside_function_mode():
                return self._convolved(input)
        start, channel = 0, -1 - self.axes
        parts: list[Tensor] = []
        for axis in range(-self.axes, 0):
            n = input.shape[axis]
            for forward in (True, False):
                part = input.narrow(channel, start, self.moved)
                kept = part.narrow(axis, 0 if forward else 1, n - 1)
                other = part.narrow(axis, n - 1 if forward else 0, 1)
                if self.padding_mode == "zeros":
                    other = torch.zeros_like(other)
                parts.append(torch.cat([other, kept] if forward else [kept, other], axis))
                start += self.moved
        parts.append(input.narrow(channel, start, input.shape[channel] - start))
        return torch.cat(parts, channel)

    def _convolved(self, input: Tensor) -> Tensor:
        """The same as a convolution: programs and files of a model need no rule of its own."""
        kernel = shift_kernel(input.shape[-1 - self.axes], self.moved, self.axes)
        mode = "circular" if self.padding_mode == "circular" else "constant"
        padded = F.pad(input, [1] * (2 * self.axes), mode)
        kernel = kernel.to(device=input.device, dtype=input.dtype)
        return CONVOLUTIONS[self.axes](padded, kernel, groups=len(kernel))

    def _check(self, input: Tensor) -> None:
        if isinstance(input, fx.Proxy):
            return
        shape, least = tuple(input.shape), 2 * self.axes * self.moved
        if len(shape) not in (self.axes + 1, self.axes + 2) or shape[-1 - self.axes] < least:
            raise ValueError(
                f"`input` must be an image of {self.axes} axes, or a batch of them, with at least "
                f"{least} channels; got {shape}."
            )

    def extra_repr(self) -> str:
        """The channels of a part, and the border."""
        return f"moved={self.moved}, padding_mode={self.padding_mode!r}"


@final
class Shift1d(_Shift):
    """Move parts of the channels of a signal by one position; see :class:`Shift2d`.

    Inputs are `(batch, c, l)` or `(c, l)`.

    Example:
        >>> Shift1d(1)(torch.tensor([[1.0, 2, 3], [1.0, 2, 3], [1.0, 2, 3]]))
        tensor([[3., 1., 2.],
                [2., 3., 1.],
                [1., 2., 3.]])
    """

    axes = 1


@final
class Shift2d(_Shift):
    r"""Shift groups of channels of an image by one position, each in its own direction.

    The first `moved` channels move to the next row, the next ones to the row before, two more parts
    to the next column and to the column before; all others stay. :class:`ShiftMix2d` makes a
    convolution of it.

    Guarantee: circular: a permutation of the entries, so an isometry. Zeros: what leaves the image
        is lost, and zeros come in: 1-Lipschitz.
    Cost: a copy of the image; no multiplication. Certificates and files have it as a convolution
        of each channel by itself, with zeros and a one for its kernel: the same numbers.

    Inputs are `(batch, c, h, w)` or `(c, h, w)`, with `c >= 4 moved`.

    Args:
        moved: channels of each part that moves.
        padding_mode: `"circular"` or `"zeros"`.

    Raises:
        ValueError: if `moved` is not a positive integer, or the mode is another; in the forward if
            there are too few channels.

    Example:
        >>> Shift2d(1, "zeros")(torch.ones(4, 2, 2))[0]
        tensor([[0., 0.],
                [1., 1.]])
    """

    axes = 2


@final
class Shift3d(_Shift):
    """Move parts of the channels of a volume by one position; see :class:`Shift2d`.

    Inputs are `(batch, c, d, h, w)` or `(c, d, h, w)`, with `c >= 6 moved`.

    Example:
        >>> Shift3d(1)(torch.zeros(1, 6, 2, 3, 4)).shape
        torch.Size([1, 6, 2, 3, 4])
    """

    axes = 3
