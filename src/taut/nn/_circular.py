"""What stands for circular padding in frozen models: pads and convolutions that copy once."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import wholes
from taut._torch_private import is_watched
from taut.linalg.rates import counts_launches
from taut.nn._padded_conv import Steps, padded_convolution
from taut.nn._padding import TO_MULTIPLE, Pads, Size, pad
from taut.nn._wrap import interior, is_channels_last, new_padded, write_borders
from taut.nn.activations import Abs, MaxMin
from taut.nn.activations._abs import abs_into
from taut.nn.activations._maxmin import maxmin_into


def _write_maxmin(module: Any, y: Tensor, x: Tensor) -> None:
    maxmin_into(y, x)


def _write_abs(module: Any, y: Tensor, x: Tensor) -> None:
    abs_into(y, x, module.beta)


def _write_relu(module: Any, y: Tensor, x: Tensor) -> None:
    torch.clamp_min(x, 0, out=y)


def _write_input(module: Any, y: Tensor, x: Tensor) -> None:
    y.copy_(x)


_WRITERS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], None]] = {
    Abs: _write_abs,
    MaxMin: _write_maxmin,
    nn.Identity: _write_input,
    nn.ReLU: _write_relu,
}
"""How activations write their output to a part of a tensor."""


def writes_padded(module: nn.Module) -> bool:
    """Whether a module is an activation that a circular pad can compute."""
    along_channels = getattr(module, "dim", 1) == 1
    return type(module) in _WRITERS and along_channels and type(module) is not nn.Identity


def _is_recorded(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _prefers_channels_last(x: Tensor, axes: int) -> bool:
    """Whether oneDNN mostly convolves such images faster with channels last."""
    if is_watched(x) or _is_recorded(x):
        return False
    return axes == 2 and x.ndim == 4 and x.is_cpu and x.dtype == torch.float32 and len(x) >= 8


class _CircularPad(nn.Module):
    """Circular padding, of any number of axes."""

    axes: int

    def __init__(
        self,
        padding: int | Sequence[int],
        activation: nn.Module | None = None,
        *,
        multiple: int | Size = 1,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        sides = (padding,) * (2 * self.axes) if isinstance(padding, int) else tuple(padding)
        self.padding = wholes("padding", sides, 2 * self.axes, least=0)
        self.multiple = wholes("multiple", multiple, self.axes)
        self.activation = nn.Identity() if activation is None else activation
        completed = any(n > 1 for n in self.multiple)
        self.complete = TO_MULTIPLE[self.axes](self.multiple) if completed else nn.Identity()
        self.channels_last = channels_last
        if type(self.activation) not in _WRITERS or getattr(activation, "dim", 1) != 1:
            raise ValueError(
                "`activation` must be MaxMin or Abs along axis 1, torch.nn.ReLU, or None; got "
                f"{activation!r}."
            )

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation, and pad."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return self._eager(input)
        padding: list[int] = []
        for n in self.padding:
            padding.append(n)
        return F.pad(self.complete(self.activation(input)), padding, "circular")

    def _eager(self, x: Tensor) -> Tensor:
        left, right = self.padding[::2][::-1], self.padding[1::2][::-1]
        if self._writes(x, left, right):
            last = self.channels_last and _prefers_channels_last(x, self.axes)
            last = last or is_channels_last(x, self.axes)
            y = new_padded(x, left, right, channels_last=last)
            _WRITERS[type(self.activation)](self.activation, interior(y, left, right), x)
            write_borders(y, left, right)
            return y
        symbolic, y = isinstance(x, fx.Proxy), self.complete(self.activation(x))
        if symbolic:
            return F.pad(y, list(self.padding), "circular")
        return pad(y, Pads((0,) * self.axes, left, right), "circular")

    def _writes(self, x: Tensor, left: Size, right: Size) -> bool:
        """Whether the activation can write its output where the padded one is."""
        if isinstance(x, fx.Proxy) or is_watched(x) or _is_recorded(x):
            return False
        if counts_launches(x.device):  # one launch gathers all
            return False
        sizes = list(zip(x.shape[-self.axes :], left, right, self.multiple, strict=True))
        return x.ndim > self.axes and all(max(a, b) <= n and n % m == 0 for n, a, b, m in sizes)

    def extra_repr(self) -> str:
        """The padding and the format."""
        return f"{self.padding}" + (", channels_last=True" if self.channels_last else "")


@final
class CircularPad1d(_CircularPad):
    """Circular padding of a signal, with one copy; see :class:`CircularPad2d`.

    Inputs are `(batch, c, l)` or `(c, l)`; `padding` is one number, or `(left, right)`.

    Example:
        >>> CircularPad1d((1, 0))(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[3., 1., 2., 3.]])
    """

    axes = 1


@final
class CircularPad2d(_CircularPad):
    r"""Circular padding into whose buffer an activation writes: it copies only the border.

    Computes `torch.nn.CircularPad2d(padding)(activation(x))`. In frozen models it stands for an
    activation in front of a circular convolution, which is then a convolution without padding.

    Guarantee: the activation's, and copies of its values at the border; nothing is rounded.
        In programs, certificates and files it is the activation, and then a pad.
    Cost: the activation, and one copy of the border; with gradients or in a compiler, a copy of the
        output more.

    Inputs are `(batch, c, h, w)`, or `(c, h, w)` where the activation takes them. The memory format
    of the input is kept.

    Args:
        padding: one number, or `(left, right, top, bottom)`, as of `torch.nn.CircularPad2d`.
        activation: :class:`MaxMin` or :class:`Abs` along axis 1, `torch.nn.ReLU`, or none.
        multiple: zeros first complete the output to such sizes, as by :class:`PadToMultiple2d`.
        channels_last: write the output in the format `torch.channels_last` where convolutions are
            faster by it: batches of float32 on a CPU.

    Raises:
        ValueError: if `padding` is not made of integers >= 0, `multiple` not of positive ones, or
            `activation` is another.

    Example:
        >>> pad = CircularPad2d((1, 0, 0, 0), MaxMin())
        >>> pad(torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]]))[0, :, 0]
        tensor([[2., 3., 2.],
                [0., 1., 0.]])
    """

    axes = 2


@final
class CircularPad3d(_CircularPad):
    """Circular padding of a volume, with one copy; see :class:`CircularPad2d`.

    Inputs are `(batch, c, d, h, w)` or `(c, d, h, w)`; `padding` is one number, or
    `(left, right, top, bottom, front, back)`.

    Example:
        >>> CircularPad3d(1)(torch.zeros(1, 3, 2, 3, 4)).shape
        torch.Size([1, 3, 4, 5, 6])
    """

    axes = 3


def _convolved(conv: Any, x: Tensor) -> Tensor:
    """A circular convolution of torch, with one copy of its input."""
    if isinstance(x, fx.Proxy):
        return conv._conv_forward(x, conv.weight, conv.bias)
    axes = len(conv.stride)
    if conv.channels_last and _prefers_channels_last(x, axes):
        x = x.contiguous(memory_format=torch.channels_last)
    pads = Pads((0,) * axes, conv.padding, conv.padding)
    steps = Steps(conv.stride, conv.dilation, conv.groups)
    return padded_convolution(x, conv.weight, conv.bias, pads, "circular", steps)


@final
class CircularConv1d(nn.Conv1d):
    """`torch.nn.Conv1d` with `padding_mode="circular"`; see :class:`CircularConv2d`.

    Example:
        >>> CircularConv1d(2, 4, 3, padding=1, padding_mode="circular")(torch.ones(1, 2, 5)).shape
        torch.Size([1, 4, 5])
    """

    channels_last = False

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return _convolved(self, input)
        return self._conv_forward(input, self.weight, self.bias)


@final
class CircularConv2d(nn.Conv2d):
    r"""`torch.nn.Conv2d` with `padding_mode="circular"`, which pads with a single copy.

    The same function with the same names: what :func:`taut.freeze` makes of circular layers. That
    of torch takes several copies, and loses `torch.channels_last` on the way.

    Cost: the convolution, and one copy of the input.

    Attributes:
        channels_last: whether batches of float32 on a CPU are convolved in that format, which is
            faster, and the output keeps it.

    Inputs are `(batch, c, h, w)` or `(c, h, w)`, of any size. Arguments are those of torch.

    Example:
        >>> layer = CircularConv2d(2, 4, 3, padding=1, padding_mode="circular")
        >>> layer(torch.ones(1, 2, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    channels_last = False

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return _convolved(self, input)
        return self._conv_forward(input, self.weight, self.bias)


@final
class CircularConv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with `padding_mode="circular"`; see :class:`CircularConv2d`.

    Example:
        >>> layer = CircularConv3d(1, 2, 3, padding=1, padding_mode="circular")
        >>> layer(torch.ones(1, 1, 4, 3, 5)).shape
        torch.Size([1, 2, 4, 3, 5])
    """

    channels_last = False

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return _convolved(self, input)
        return self._conv_forward(input, self.weight, self.bias)
