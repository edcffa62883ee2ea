"""Transposed convolutions: adjoints of convolutions whose kernel comes from a parametrization."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut._arguments import wholes
from taut.nn._conv import Sizes, _ConvNd, behind
from taut.nn._padding import Pads, Size, make_pads, pad, torch_pads
from taut.nn._parametrized import Parametrization, SharedTensors, filled
from taut.parametrizations import BCOP, AbstractSpectral

_CONVOLUTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_PLAIN = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_PADS = {
    "circular": {1: nn.CircularPad1d, 2: nn.CircularPad2d, 3: nn.CircularPad3d},
    "zeros": {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d},
}


class _ConvTranspose(_ConvNd):
    """The adjoint of the convolution from the output to the input."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = "same",
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "circular",
        *,
        parametrization: Parametrization = BCOP,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_sizes((in_channels, out_channels), kernel_size, stride, dilation, groups)
        self._set_padding(padding, padding_mode)
        self.output_padding = wholes("output_padding", output_padding, self.axes, least=0)
        self._refuse_other_outputs()
        between = self.out_channels, self.in_channels
        self._make_parameters(parametrization, between, bias, device=device, dtype=dtype)
        if isinstance(self.parametrization, AbstractSpectral):
            raise ValueError(
                "`parametrization` must not be spectral for a transposed convolution; "
                f"got {type(self.parametrization).__name__}."
            )

    def _refuse_other_outputs(self) -> None:
        if self.padding_mode == "circular" and self.padding != "same":
            raise ValueError(
                f"`padding` must be 'same' with padding_mode='circular'; got {self.padding}."
            )
        if self.padding == "same" and any(self.output_padding):
            raise ValueError(
                "`output_padding` must be 0 with padding='same', which makes the output `stride` "
                f"times as large as the input; got {self.output_padding}."
            )
        if any(o >= s for o, s in zip(self.output_padding, self.stride, strict=True)):
            raise ValueError(
                "`output_padding` must be less than `stride`; "
                f"got output_padding={self.output_padding}, stride={self.stride}."
            )

    def output_size(self, input_size: Size) -> Size:
        """Spatial size of the output."""
        if isinstance(self.padding, str):
            return tuple(n * s for n, s in zip(input_size, self.stride, strict=True))
        axes = zip(
            input_size,
            self.stride,
            self.padding,
            self.kernel_size,
            self.output_padding,
            strict=True,
        )
        return tuple((n - 1) * s - 2 * p + k + o for n, s, p, k, o in axes)

    def pads(self, output_size: Size) -> Pads:
        """How the convolution of which this is the adjoint pads an input of `output_size`."""
        return make_pads(
            output_size, self.kernel_size, self.stride, self.padding, self.padding_mode
        )

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Pad the input and apply the plain transposed convolution."""
        pads, crop, more = self._as_plain()
        x, convolve = pad(input, pads, self.padding_mode), _CONVOLUTIONS[self.axes]
        steps = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        return convolve(x, self.weight, self.bias, padding=crop, output_padding=more, **steps)

    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """A plain transposed convolution, behind what it is padded with."""
        pads, crop, more = self._as_plain()
        sides, before = tuple(torch_pads(pads.left, pads.right)), []
        if any(sides):
            before = [("pad", _PADS[self.padding_mode][self.axes](sides))]
        weight, bias = tensors.weight(self.parametrization), tensors.bias(self.bias)
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride, crop, more)
        options = {"device": "meta", "dtype": weight.dtype}
        plain = _PLAIN[self.axes](*sizes, self.groups, bias is not None, self.dilation, **options)
        return behind(before, filled(plain, weight, bias))

    def _as_plain(self) -> tuple[Pads, Size, Size]:
        """Pads of the input; padding and output padding of the plain transposed convolution."""
        none = (0,) * self.axes
        if not isinstance(self.padding, str):
            return Pads(none, none, none), self.padding, self.output_padding
        # Output m is the sum of K_t^T x_j with m = s j + t - l, where the convolution pads l in
        # front. 0 <= m < s n needs -floor((k - 1 - l) / s) <= j <= n - 1 + ceil(l / s). With
        # e = (k - s) mod 2, b = ceil(l / s) positions after the input and a = b + e before it
        # suffice; with zeros no positions after it. Of the plain output, s a + l positions lie
        # before m = 0, and s b + l + e after m = s n - 1: as many, but for e (s - 1).
        axes = list(zip(self.kernel_size, self.stride, strict=True))
        left, odd = [(k - s) // 2 for k, s in axes], [(k - s) % 2 for k, s in axes]
        wraps = self.padding_mode == "circular"
        after = [-(-p // s) if wraps else 0 for p, s in zip(left, self.stride, strict=True)]
        before = [a + e for a, e in zip(after, odd, strict=True)]
        crop = tuple(s * b + p for s, b, p in zip(self.stride, before, left, strict=True))
        more = tuple(e * (s - 1) for e, s in zip(odd, self.stride, strict=True))
        return Pads(none, tuple(before), tuple(after)), crop, more


@final
class ConvTranspose1d(_ConvTranspose):
    r"""1-D transposed convolution: a drop-in replacement of `torch.nn.ConvTranspose1d`.

    Inputs are `(batch, in_channels, l)` or `(in_channels, l)`. Arguments and guarantee: see
    :class:`ConvTranspose2d`.

    Example:
        >>> ConvTranspose1d(4, 2, 6, stride=3)(torch.zeros(1, 4, 3)).shape
        torch.Size([1, 2, 9])
    """

    axes = 1


@final
class ConvTranspose2d(_ConvTranspose):
    r"""2-D transposed convolution: a drop-in replacement of `torch.nn.ConvTranspose2d`.

    The adjoint of the convolution with the same kernel from the output to the input: the
    parametrization is asked for the kernel of that convolution, `(in_channels, out_channels,
    *kernel_size)`, which has the shape of torch's weight.

    Guarantee: the singular values are those of that convolution. With the default,
        :class:`taut.BCOP`, and circular padding the operator is orthogonal (semi-orthogonal where
        the sizes of input and output differ): an isometry if `in_channels` is at most
        `out_channels * stride^2`, also with zeros and `padding=0`. With other zero padding it is
        1-Lipschitz.
    Cost: the plain transposed convolution, and the weight once per forward pass (once under
        `torch.no_grad()` inside :func:`taut.cached`).

    Inputs are `(batch, in_channels, h, w)` or `(in_channels, h, w)`. With `padding="same"` the
    output has `h * stride` rows and `w * stride` columns; with an integer, which needs
    `padding_mode="zeros"`, it has the size of torch's.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one size, or one per axis.
        stride: one step, or one per axis; the parametrization says which (BCOP: divisors of the
            kernel size).
        padding: `"same"`, `"valid"` (that is 0), or positions cut off at both ends of each axis.
        output_padding: positions added after each axis, less than the stride; 0 with `"same"`.
        groups: blocks of channels that do not mix; the parametrization says which (BCOP: 1).
        bias: whether to add a learnable bias.
        dilation: only 1.
        padding_mode: `"circular"` or `"zeros"`.
        parametrization: a class of :mod:`taut.parametrizations`, or a partial of one.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an argument is not one of those; with the argument, what is allowed, and the
            value.

    Example:
        >>> layer = ConvTranspose2d(16, 4, 2, stride=2, bias=False)
        >>> x = torch.randn(1, 16, 5, 5)
        >>> y = layer(x)
        >>> y.shape, torch.allclose(y.norm(), x.norm())
        (torch.Size([1, 4, 10, 10]), True)
    """

    axes = 2


@final
class ConvTranspose3d(_ConvTranspose):
    r"""3-D transposed convolution: a drop-in replacement of `torch.nn.ConvTranspose3d`.

    Inputs are `(batch, in_channels, d, h, w)` or `(in_channels, d, h, w)`. Arguments and guarantee:
    see :class:`ConvTranspose2d`.

    Example:
        >>> ConvTranspose3d(8, 1, 2, stride=2)(torch.zeros(1, 8, 2, 3, 3)).shape
        torch.Size([1, 1, 4, 6, 6])
    """

    axes = 3
