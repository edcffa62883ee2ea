"""Transposed convolutions: adjoints of convolutions whose kernel comes from a parametrization."""

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from taut._arguments import check_image, wholes
from taut.linalg.geometry import TRANSPOSED_CONVOLUTIONS
from taut.linalg.windows import Windows
from taut.nn._circular import CircularPad1d, CircularPad2d, CircularPad3d
from taut.nn._conv import Sizes, _ConvNd
from taut.nn._padding import Pads, Size, make_pads, pad, torch_pads
from taut.nn._parametrized import Parametrization, SharedTensors, filled
from taut.nn._spectral_layer import applied, check_spectral, frozen_spectral
from taut.parametrizations import BCOP, Isometry, may_transform

_PLAIN = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_TRANSPOSED: dict[Isometry, Isometry] = {
    "rows": "columns",
    "columns": "rows",
    "both": "both",
    "neither": "neither",
}
_PADS = {
    "circular": {1: CircularPad1d, 2: CircularPad2d, 3: CircularPad3d},
    "zeros": {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d},
}


class _ConvTranspose(_ConvNd):
    """The adjoint of the convolution from the output to the input."""

    padding_modes = ("circular", "zeros")

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
        gain: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_gain(gain)
        self._set_sizes((in_channels, out_channels), kernel_size, stride, dilation, groups)
        self._set_padding(padding, padding_mode)
        self.output_padding = wholes("output_padding", output_padding, self.axes, least=0)
        self._refuse_other_outputs()
        between = self.out_channels, self.in_channels
        self._make_parameters(parametrization, between, bias, device=device, dtype=dtype)
        if self.fills_input:
            check_spectral(self, transposed=True)

    def _refuse_other_outputs(self) -> None:
        if self.padding == "same" and any(self.output_padding):
            raise ValueError(
                "`output_padding` must be 0 with padding='same', which makes the output `stride` "
                f"times as large as the input; got {self.output_padding}."
            )
        largest = map(max, self.stride, self.dilation)
        if any(o >= most for o, most in zip(self.output_padding, largest, strict=True)):
            raise ValueError(
                "`output_padding` must be less than `stride` or `dilation`; got output_padding="
                f"{self.output_padding}, stride={self.stride}, dilation={self.dilation}."
            )
        if self.padding_mode == "circular" and any(self._missing()):
            raise ValueError(
                "`padding` must be 'same' with padding_mode='circular', or give an output `stride` "
                f"times as large as the input; got padding={self.padding}, output_padding="
                f"{self.output_padding}, kernel_size={self.kernel_size}, stride={self.stride}, "
                f"dilation={self.dilation}."
            )

    def _missing(self) -> list[bool]:
        """Per axis: whether the padding does not make the output `stride` times as large."""
        if isinstance(self.padding, str):
            return [False] * self.axes
        axes = zip(self.padding, self.output_padding, self.span, self.stride, strict=True)
        return [2 * p != k - s + o for p, o, k, s in axes]

    def pads(self, output_size: Size) -> Pads:
        """How the convolution of which this is the adjoint pads an input of `output_size`."""
        padding, mode = self.padding, self.padding_mode
        pads = make_pads(output_size, self.span, self.stride, padding, mode)
        if mode == "zeros" or isinstance(padding, str):
            return pads
        return pads._replace(
            right=tuple(p - o for p, o in zip(padding, self.output_padding, strict=True))
        )

    @property
    def isometry(self) -> Isometry:
        """What the layer's operator has orthonormal: `"rows"`, `"columns"`, `"both"`, `"neither"`.

        See :attr:`Conv2d.isometry`; rows are the outputs, columns the inputs of this layer.
        """
        return _TRANSPOSED[self._kept(self.pads(self.stride), self.output_padding)]

    def extra_repr(self) -> str:
        """What the layer adds to its parametrization, which prints the sizes of the adjoint."""
        more = f"output_padding={self.output_padding}, " if any(self.output_padding) else ""
        return more + super().extra_repr()

    def forward(
        self, input: Float[Tensor, "..."], output_size: Sequence[Any] | None = None
    ) -> Float[Tensor, "..."]:
        """Pad the input and apply the plain transposed convolution, or the kernel's factors.

        Args:
            input: a batch of images, or one.
            output_size: size of the output, of the axes of the image or of all axes; one of those
                that the convolution maps to the size of the input. By default the one that
                `output_padding` gives.

        Raises:
            ValueError: if it is another size; with the least and the largest.
        """
        check_image(input, self.in_channels, self.axes)
        if output_size is None or self._is_cut:
            return cut(self._transposed(input), output_size, self.stride)
        axes = zip(input.shape[-self.axes :], self.stride, self.span, self.padding, strict=True)
        least = tuple(s * (n - 1) + k - 2 * int(p) for n, s, k, p in axes)
        size = _checked_size(output_size, least, self.stride, input.dim())
        return self._transposed(input, tuple(m - n for m, n in zip(size, least, strict=True)))

    def _transposed(self, input: Tensor, output_padding: Size | None = None) -> Tensor:
        """The output of the layer's own size, or with another output padding."""
        if self.fills_input:
            return applied(self, input, transposed=True)
        batched = input.ndim == self.axes + 2 and self.padding_mode == "circular"
        if batched and may_transform(self.parametrization, input):
            windows = Windows(self.stride, self.dilation, self.pads(self.stride).left)
            x = self._amplified(input)
            y = self.parametrization.transform_adjoint(x, self.bias, windows)
            if y is not None:
                return y
        pads, crop, more = self._as_plain()
        x, convolve = pad(input, pads, self.padding_mode), TRANSPOSED_CONVOLUTIONS[self.axes]
        steps = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        steps |= {"padding": crop, "output_padding": output_padding or more}
        return convolve(x, self.weight, self.bias, **steps)

    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """A plain transposed convolution, behind what it is padded with."""
        if self.fills_input:
            return frozen_spectral(self, tensors, transposed=True)
        pads, crop, more = self._as_plain()
        sides = tuple(torch_pads(pads.left, pads.right))
        weight, bias = tensors.weight(self), tensors.bias(self.bias)
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride, crop, more)
        options = {"device": "meta", "dtype": weight.dtype}
        plain = _PLAIN[self.axes](*sizes, self.groups, bias is not None, self.dilation, **options)
        layer = filled(plain, weight, bias)
        if not any(sides):
            # Whether torch's layer takes the same sizes of the output as this one.
            same = all(o == s - 1 for o, s in zip(more, self.stride, strict=True))
            return SizedConvTranspose(layer) if self._is_cut and not same else layer
        return SizedConvTranspose(layer, _PADS[self.padding_mode][self.axes](sides))

    @property
    def _is_cut(self) -> bool:
        """Whether the output has all of a periodic domain, of which smaller sizes are a part."""
        return self.padding == "same" or self.padding_mode == "circular"

    def _as_plain(self) -> tuple[Pads, Size, Size]:
        """Pads of the input; padding and output padding of the plain transposed convolution."""
        none, wraps = (0,) * self.axes, self.padding_mode == "circular"
        if not wraps and not isinstance(self.padding, str):
            return Pads(none, none, none), self.padding, self.output_padding
        axes = zip(self.span, self.stride, self.pads(self.stride).left, strict=True)
        before, after, crop, more = zip(
            *(adjoint_sides(*axis, wraps=wraps) for axis in axes), strict=True
        )
        return Pads(none, before, after), crop, more


def adjoint_sides(span: int, stride: int, left: int, *, wraps: bool) -> tuple[int, int, int, int]:
    """Pads before and after, padding and output padding, of the adjoint on one axis.

    Output m is the sum of K_t^T x_j with m = s j + d t - l: the convolution has l positions of
    padding in front, and its taps span k positions. 0 <= m < s n needs -floor((k - 1 - l) / s) <= j
    <= n - 1 + ceil(l / s); zeros need not be there. With a positions before the input and b after
    it, s a + l positions of the plain output come before m = 0, and s (b - 1) + k - l after
    m = s n - 1. The difference, which is the output padding, must be in 0, ..., s - 1.
    """
    before = (span - 1 - left) // stride if wraps else 0
    after = -(-left // stride) if wraps else 0
    difference = stride * (before - after + 1) + 2 * left - span
    before += max(0, -(difference // stride))
    after += max(0, difference // stride)
    return before, after, stride * before + left, difference % stride


def _checked_size(output_size: Sequence[Any], least: Size, stride: Size, dims: int) -> Size:
    """The size of an output, from its own axes or from all `dims` of its batch."""
    axes = len(stride)
    if isinstance(output_size, Sequence) and len(output_size) == dims:
        output_size = output_size[-axes:]
    size = wholes("output_size", output_size, axes)
    most = tuple(n + s - 1 for n, s in zip(least, stride, strict=True))
    if not all(a <= n <= b for a, n, b in zip(least, size, most, strict=True)):
        raise ValueError(
            f"`output_size` must be from {least} to {most} for this input; got {size}."
        )
    return size


@fx.wrap
def cut(y: Tensor, output_size: Sequence[Any] | None, stride: Size) -> Tensor:
    """An output of whole strides, cut to the size asked for, if any.

    The result is that of the adjoint of a convolution that first extends its input by zeros to a
    size that the stride divides.
    """
    if output_size is None:
        return y
    least = tuple(n - s + 1 for n, s in zip(y.shape[-len(stride) :], stride, strict=True))
    for axis, n in enumerate(_checked_size(output_size, least, stride, y.dim()), -len(stride)):
        y = y.narrow(axis, 0, n)
    return y


@final
class SizedConvTranspose(nn.Sequential):
    """A plain transposed convolution behind its padding; its output may be cut to a size.

    In frozen models it stands for a layer whose output is as large as the periodic domain.

    Guarantee: that of the layer; what is cut off only makes the norm smaller.
    Cost: that of its modules.

    Args:
        layer: the transposed convolution.
        pad: what stands in front of it.

    Raises:
        ValueError: if the convolution does not map the size asked for to that of the input.

    Example:
        >>> layer = SizedConvTranspose(nn.ConvTranspose1d(1, 1, 2, stride=2))
        >>> layer(torch.zeros(1, 1, 3), output_size=[5]).shape
        torch.Size([1, 1, 5])
    """

    def __init__(self, layer: nn.Module, pad: nn.Module | None = None) -> None:
        super().__init__()
        if pad is not None:
            self.add_module("pad", pad)
        self.add_module("layer", layer)

    # No sequences in the annotations: TorchScript reads them.
    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Pad, convolve, and cut."""
        for module in self:
            input = module(input)
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            input = cut(input, output_size, self.layer.stride)  # pyright: ignore[reportArgumentType]
        return input


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
        the sizes of input and output differ): an isometry if `in_channels <= out_channels *
        stride^2`, also with zeros and `padding=0`. With other zero padding it is 1-Lipschitz.
        :attr:`isometry` says what is kept.
    Cost: the plain transposed convolution, and the weight once per forward pass (once under
        `torch.no_grad()` inside :func:`taut.cached`); less if the parametrization applies its
        factors.

    Inputs are `(batch, in_channels, h, w)` or `(in_channels, h, w)`. With `padding="same"` the
    output has `h * stride` rows and `w * stride` columns; with integers it has the size of torch's.
    A call may ask for another of the sizes that the convolution maps to that of the input:
    `layer(x, output_size=image.shape)`, as in torch. With `"same"` or circular padding these are
    up to `stride - 1` less, and the output is cut; rows that are orthonormal stay so.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one size, or one per axis.
        stride: one step, or one per axis; it need not divide the kernel size.
        padding: `"same"`, `"valid"` (that is 0), or positions cut off at both ends of each axis.
            With circular padding integers must give `h * stride` rows.
        output_padding: positions added after each axis, less than the stride or the dilation; 0
            with `"same"`.
        groups: blocks of channels that do not mix, each with a kernel of its own.
        bias: whether to add a learnable bias.
        dilation: distance of the taps, one or one per axis.
        padding_mode: `"circular"` or `"zeros"`.
        parametrization: a class of :mod:`taut.parametrizations`, or a partial of one.
        gain: a positive number by which the weight is multiplied, and its norm with it.
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
