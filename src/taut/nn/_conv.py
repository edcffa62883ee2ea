"""Convolutions whose kernel comes from a parametrization."""

from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_image, whole, wholes
from taut.linalg.windows import Windows
from taut.nn._circular import (
    CircularConv1d,
    CircularConv2d,
    CircularConv3d,
    CircularPad1d,
    CircularPad2d,
    CircularPad3d,
)
from taut.nn._isometric_pad import IsometricPad1d, IsometricPad2d, IsometricPad3d, isometric_pad
from taut.nn._padded_conv import Steps, padded_convolution
from taut.nn._padding import (
    TO_MULTIPLE,
    Pads,
    Size,
    make_pads,
    pad,
    torch_pads,
)
from taut.nn._parametrized import (
    AbstractParametrizedLayer,
    Parametrization,
    SharedTensors,
    filled,
    made,
)
from taut.nn._spectral_layer import (
    applied,
    check_spectral,
    frozen_spectral,
    geometry_of,
    kernel_of,
)
from taut.parametrizations import (
    BCOP,
    Isometry,
    effective_stride,
    existing_isometry,
    may_transform,
    require_isometry,
)

Sizes = int | tuple[int, ...]
_PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CIRCULAR = {1: CircularConv1d, 2: CircularConv2d, 3: CircularConv3d}
_WRAPS = {1: CircularPad1d, 2: CircularPad2d, 3: CircularPad3d}
_ISOMETRIC = {1: IsometricPad1d, 2: IsometricPad2d, 3: IsometricPad3d}
_ZEROS = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}


class _ConvNd(AbstractParametrizedLayer):
    """Sizes and padding of a convolution, transposed or not."""

    axes: ClassVar[int]
    padding_modes: ClassVar[tuple[str, ...]]
    in_channels: int
    out_channels: int
    padding: str | Size

    def _set_sizes(
        self,
        channels: tuple[int, int],
        kernel_size: Sizes,
        stride: Sizes,
        dilation: Sizes,
        groups: int,
    ) -> None:
        self.in_channels = whole("in_channels", channels[0])
        self.out_channels = whole("out_channels", channels[1])
        self.kernel_size = wholes("kernel_size", kernel_size, self.axes)
        self.stride = wholes("stride", stride, self.axes)
        self.dilation = wholes("dilation", dilation, self.axes)
        self.groups = whole("groups", groups)

    def _set_padding(self, padding: str | Sizes, padding_mode: str) -> None:
        if padding_mode not in self.padding_modes:
            *others, last = map(repr, self.padding_modes)
            raise ValueError(
                f"`padding_mode` must be {', '.join(others)} or {last}; got {padding_mode!r}."
            )
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(
                f"`padding` must be 'same', 'valid', an integer or a tuple; got {padding!r}."
            )
        self.padding, self.padding_mode = "same", padding_mode
        if padding != "same":
            positions = 0 if padding == "valid" else padding
            self.padding = wholes("padding", positions, self.axes, least=0)

    def _make_parameters(
        self, method: Parametrization, channels: tuple[int, int], bias: bool, **factory: Any
    ) -> None:
        """Make and draw the kernel between these channels, then the bias."""
        stride = effective_stride(self.stride, self.dilation)
        sizes: dict[str, Any] = {"stride": stride, "groups": self.groups}
        parametrization = made(method, *channels, self.kernel_size, **sizes, **factory)
        if parametrization.guarantee == "orthogonal":
            steps: dict[str, Any] = {"dilation": self.dilation, "groups": self.groups}
            require_isometry(*channels, self.kernel_size, self.stride, **steps)
        self._set_parameters(parametrization, self.out_channels, bias, **factory)

    @property
    def span(self) -> Size:
        """Positions from the first tap of a window to its last, per axis."""
        axes = zip(self.kernel_size, self.dilation, strict=True)
        return tuple(d * (k - 1) + 1 for k, d in axes)

    def _kept(self, pads: Pads, rest: Size) -> Isometry:
        """What is orthonormal of the convolution with these pads, on sizes of whole strides.

        `rest` has the positions behind the last window, per axis.
        """
        method = self.parametrization
        if method.guarantee != "orthogonal":
            return "neither"
        sizes = (method.in_channels, method.out_channels, self.kernel_size, self.stride)
        existing = existing_isometry(*sizes, self.dilation, self.groups)
        rows, columns = existing in ("rows", "both"), existing in ("columns", "both")
        axes = zip(pads.left, pads.right, rest, self.span, self.stride, strict=True)
        for left, right, more, k, s in axes:
            total, circular = left + right, self.padding_mode == "circular"
            # The outputs are all of those on the periodic domain, or some of them; or the input is
            # embedded in a larger domain, and all outputs that read it are there: none is s before
            # the first, ending at k - 1 - s - left, or s behind the last.
            if self.padding_mode == "zeros":
                rows, columns = rows and total == 0, columns and min(left, right - more) >= k - s
            elif not (k - s <= total < k and (circular or total == 0)):
                rows, columns = rows and (total == 0 or (circular and total < k)), False
        if rows and columns:
            return "both"
        return "rows" if rows else "columns" if columns else "neither"

    def extra_repr(self) -> str:
        """What the layer adds to its parametrization, which prints the other sizes."""
        text = f"padding={self.padding!r}, padding_mode={self.padding_mode!r}"
        if self.parametrization.stride != self.stride:
            text += f", stride={self.stride}"
        text += "" if set(self.dilation) == {1} else f", dilation={self.dilation}"
        text += "" if self.bias is not None else ", bias=False"
        text += "" if self.gain == 1.0 else f", gain={self.gain}"
        return f"{text}, isometry={self.isometry!r}"


def behind(before: list[tuple[str, nn.Module]], layer: nn.Module) -> nn.Module:
    """A layer behind others, or alone."""
    if not before:
        return layer
    sequence = nn.Sequential()
    for name, module in (*before, ("layer", layer)):
        sequence.add_module(name, module)
    return sequence


class _Conv(_ConvNd):
    """A convolution: pads the input, and applies `F.conv1d`, `F.conv2d` or `F.conv3d`."""

    padding_modes = ("circular", "zeros", "reflect", "replicate")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = "same",
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
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
        self._refuse_repeated_outputs()
        between = self.in_channels, self.out_channels
        self._make_parameters(parametrization, between, bias, device=device, dtype=dtype)
        if self.fills_input:
            check_spectral(self, transposed=False)

    def _refuse_repeated_outputs(self) -> None:
        if self.padding_mode != "circular" or isinstance(self.padding, str):
            return
        if any(2 * p > k - 1 for p, k in zip(self.padding, self.span, strict=True)):
            raise ValueError(
                "`padding` must be 'same' or at most dilation * (kernel_size - 1) / 2 with "
                "padding_mode='circular' (more would repeat outputs); got padding="
                f"{self.padding}, kernel_size={self.kernel_size}, dilation={self.dilation}."
            )

    @property
    def isometry(self) -> Isometry:
        """What the layer's operator has orthonormal: `"rows"`, `"columns"`, `"both"`, `"neither"`.

        On input sizes that the stride divides, and as far as the parametrization promises it:
        with orthonormal rows the norm of gradients is preserved, with orthonormal columns that of
        inputs. `"neither"` where only the largest singular value is bounded, as with zero padding.
        """
        pads = self.pads(self.stride)
        axes = zip(pads.left, pads.right, self.span, self.stride, strict=True)
        return self._kept(pads, tuple((a + b - k) % s for a, b, k, s in axes))

    def pads(self, input_size: Size) -> Pads:
        """How an input of this spatial size is padded before a valid convolution."""
        return make_pads(input_size, self.span, self.stride, self.padding, self.padding_mode)

    def kernel(self, input_size: Sizes) -> Tensor:
        """The kernel for inputs of this spatial size: `weight`, unless it depends on the size.

        A kernel that fills the periodic domain of its input has its first tap at the origin.
        """
        sizes = wholes("input_size", input_size, self.axes)
        if not self.fills_input:
            return self.weight
        return kernel_of(self, geometry_of(self, transposed=False).domain(sizes))

    def _extension(self) -> list[tuple[str, nn.Module]]:
        """The module that extends an input to sizes that the stride divides, if any is needed."""
        extended = self.pads(tuple(s + 1 for s in self.stride)).extend
        if not any(extended):
            return []
        multiple = tuple(s if e else 1 for s, e in zip(self.stride, extended, strict=True))
        return [("multiple", TO_MULTIPLE[self.axes](multiple))]

    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """A plain convolution, behind the padding that it does not add itself."""
        if self.fills_input:
            return frozen_spectral(self, tensors, transposed=False)
        pads = self.pads(self.stride)  # of a size that the stride divides
        return self.as_plain(tensors.weight(self), tensors.bias(self.bias), pads, self.dilation)

    def as_plain(
        self, weight: Tensor, bias: nn.Parameter | None, pads: Pads, dilation: Size
    ) -> nn.Module:
        """A convolution of torch with this weight, behind the padding that it does not add."""
        odd = tuple(b - a for a, b in zip(pads.left, pads.right, strict=True))
        nothing, sides = (0,) * self.axes, tuple(torch_pads(pads.left, pads.right))
        before = self._extension()
        mode, padding, kinds = "zeros", pads.left, _PLAIN
        if self.padding_mode in ("reflect", "replicate") and any(sides):
            before.append(("pad", _ISOMETRIC[self.axes](sides, self.padding_mode)))
            padding = nothing
        elif self.padding_mode == "circular" and any(odd):
            before.append(("wrap", _WRAPS[self.axes](sides)))
            padding = nothing
        elif self.padding_mode == "circular" and any(sides):
            mode, kinds = "circular", _CIRCULAR
        elif any(odd):
            before.append(("even", _ZEROS[self.axes](tuple(torch_pads(nothing, odd)))))
        if not isinstance(weight, nn.Parameter):
            weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        sizes = (self.in_channels, self.out_channels, tuple(weight.shape[2:]), self.stride, padding)
        options: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
        options |= {"padding_mode": mode, "dtype": weight.dtype}
        plain = kinds[self.axes](*sizes, dilation, self.groups, **options)
        return behind(before, filled(plain, weight, bias))

    def _fills_domain(self, input: Tensor) -> bool:
        """Whether the layer is a circular convolution of a batch of such images."""
        size = tuple(input.shape[-self.axes :])
        axes = zip(size, self.stride, strict=True)
        batched = input.ndim == self.axes + 2 and all(n % s == 0 for n, s in axes)
        if not batched or self.padding_mode != "circular":
            return False
        pads = self.pads(size)
        axes = zip(pads.left, pads.right, self.span, self.stride, strict=True)
        return all(left + right == max(0, k - s) for left, right, k, s in axes)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Pad the input and convolve it with the kernel, or apply the kernel's factors."""
        check_image(input, self.in_channels, self.axes)
        if self.fills_input:
            return applied(self, input, transposed=False)
        size = tuple(input.shape[-self.axes :])
        if self._fills_domain(input) and may_transform(self.parametrization, input):
            windows = Windows(self.stride, self.dilation, self.pads(size).left)
            x = self._amplified(input)
            y = self.parametrization.transform(x, self.bias, windows)
            if y is not None:
                return y
        x, pads, mode = input, self.pads(size), self.padding_mode
        if mode in ("reflect", "replicate"):
            nothing = (0,) * self.axes
            x = pad(x, Pads(pads.extend, nothing, nothing), "zeros")
            x = isometric_pad(x, pads.left, pads.right, mode)
            pads, mode = Pads(nothing, nothing, nothing), "zeros"
        steps = Steps(self.stride, self.dilation, self.groups)
        return padded_convolution(x, self.weight, self.bias, pads, mode, steps)


@final
class Conv1d(_Conv):
    r"""1-D convolution with a parametrized kernel: a drop-in replacement of `torch.nn.Conv1d`.

    Inputs are `(batch, in_channels, l)` or `(in_channels, l)`. Arguments and guarantee: see
    :class:`Conv2d`.

    Example:
        >>> Conv1d(2, 4, 6, stride=3)(torch.zeros(1, 2, 9)).shape
        torch.Size([1, 4, 3])
    """

    axes = 1


@final
class Conv2d(_Conv):
    r"""2-D convolution with a parametrized kernel: a drop-in replacement of `torch.nn.Conv2d`.

    Guarantee: that of the parametrization. With the default, :class:`taut.BCOP`, and circular
        padding the operator is orthogonal (semi-orthogonal where the sizes of input and output
        differ) wherever an orthogonal convolution exists: it is 1-Lipschitz in l2, and its
        transpose preserves the norm of gradients. Other padding is 1-Lipschitz; :attr:`isometry`
        says what is kept. Without padding orthonormal rows stay orthonormal, so that the norm of
        gradients is preserved if `out_channels <= in_channels * stride^2`. With zeros
        (`padding=dilation * (kernel_size - 1)`) orthonormal columns do. Zeros with `"same"`,
        reflection, replication, and sizes that the stride does not divide are not orthogonal at
        the border.
    Cost: the plain convolution, and the weight once per forward pass (once under
        `torch.no_grad()` inside :func:`taut.cached`); less if the parametrization applies its
        factors.

    Inputs are `(batch, in_channels, h, w)` or `(in_channels, h, w)`, of any size; with
    `padding="same"` the output has `ceil(h / stride)` rows and `ceil(w / stride)` columns. The
    output keeps the memory format `torch.channels_last` of the input.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one size, or one per axis; even sizes are allowed.
        stride: one step, or one per axis; it need not divide the kernel size.
        padding: `"same"`, `"valid"`, or the number of positions added at both ends of each axis.
            With `"valid"` or 0 the input is never padded, as in torch.
        dilation: distance of the taps, one or one per axis. Kernels are built for the stride
            divided by its greatest common divisor with the dilation.
        groups: blocks of channels that do not mix, each with a kernel of its own.
        bias: whether to add a learnable bias.
        padding_mode: `"circular"`, `"zeros"`, `"reflect"` or `"replicate"`. Unlike torch, the last
            two divide each entry by the root of how often it occurs in the padded input
            (:class:`IsometricPad2d`): copies would raise the norm, up to 2 for a reflection.
        parametrization: a class of :mod:`taut.parametrizations`, or a partial of one.
        gain: a positive number by which the weight is multiplied, and its norm with it.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an argument is not one of those; with the argument, what is allowed, and the
            value. If the parametrization is orthogonal and there is no orthogonal convolution of
            these sizes: with more outputs than a window has inputs, and pixels that are not read
            (a kernel shorter than the stride, or a common divisor of stride and dilation).

    Reference:
        Li et al. (2019), sections 4.2 and 5; arXiv:1911.00937. Existence: Achour et al. (2022),
        JMLR 23(347), and :func:`taut.parametrizations.existing_isometry`. Without padding the
        outputs are some of those on the periodic domain, so that their rows stay orthonormal;
        with zeros the input is embedded in a larger one, so that the columns do.

    Example:
        >>> layer = Conv2d(3, 16, 4, stride=2)
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 16, 16, 16])
    """

    axes = 2


@final
class Conv3d(_Conv):
    r"""3-D convolution with a parametrized kernel: a drop-in replacement of `torch.nn.Conv3d`.

    Inputs are `(batch, in_channels, d, h, w)` or `(in_channels, d, h, w)`. Arguments and guarantee:
    see :class:`Conv2d`.

    Example:
        >>> Conv3d(1, 8, 2, stride=2)(torch.zeros(1, 1, 4, 6, 6)).shape
        torch.Size([1, 8, 2, 3, 3])
    """

    axes = 3
