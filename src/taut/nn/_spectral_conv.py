"""Circular convolutions by one matrix per frequency, and the layer that holds such matrices."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut._arguments import check_image
from taut.linalg.embedding import channels_to_phases, phases_to_channels
from taut.linalg.fourier import spectral_product
from taut.linalg.geometry import CONVOLUTIONS
from taut.linalg.rounding import up_product, up_root
from taut.linalg.spectral import SpectralOperator
from taut.nn._padding import Pads, Size, pad, torch_pads
from taut.parametrizations import kernel_of_symbol
from taut.program import (
    AbstractOp,
    Call,
    Rounding,
    Site,
    UnprovenError,
    like,
    norm_upper,
    op,
    single_call,
)


def _captured(c: Call, input: Any, real: Any, imag: Any, bias: Any, size: Size, groups: int) -> str:
    tensors: dict[str, Tensor | None] = {"real": c.constant(real), "imag": c.constant(imag)}
    tensors["bias"] = None if bias is None else c.constant(bias)
    return c.add("spectral_conv", [c.name(input)], args={"groups": groups}, tensors=tensors)


@single_call(_captured)
def spectral_conv(
    input: Tensor, real: Tensor, imag: Tensor, bias: Tensor | None, size: Size, groups: int
) -> Tensor:
    """`spectral_product` and a bias."""
    return _with_bias(spectral_product(input, real, imag, size, groups), bias)


@final
@dataclass(frozen=True)
class SpectralGeometry:
    """What surrounds the convolution on the periodic domain: a convolution, or its adjoint.

    A convolution extends the image by zeros to a multiple of the stride, moves the phases of the
    stride into channels, pads zeros, convolves, and crops as much. The adjoint pads, convolves,
    crops, and moves channels back into phases.

    Attributes:
        stride: per axis.
        left: zeros in front of each axis of the domain, positions after downsampling.
        right: zeros behind.
        groups: blocks of channels that do not mix.
        transposed: whether it is the adjoint.
    """

    stride: Size
    left: Size
    right: Size
    groups: int = 1
    transposed: bool = False

    def domain(self, input_size: Size) -> Size:
        """Size of the periodic domain for inputs of a spatial size."""
        steps = (1,) * len(input_size) if self.transposed else self.stride
        axes = zip(input_size, steps, self.left, self.right, strict=True)
        return tuple(-(-n // s) + a + b for n, s, a, b in axes)

    def before(self, x: Tensor) -> Tensor:
        """The image on the periodic domain, from one of any size."""
        nothing = (0,) * len(self.stride)
        if not self.transposed:
            sizes = zip(x.shape[2:], self.stride, strict=True)
            x = pad(x, Pads(nothing, nothing, tuple(-n % s for n, s in sizes)), "zeros")
            x = phases_to_channels(x, list(self.stride))
        return pad(x, Pads(nothing, self.left, self.right), "zeros")

    def after(self, y: Tensor) -> Tensor:
        """The output, from the image on the periodic domain."""
        for axis, (a, b) in enumerate(zip(self.left, self.right, strict=True), start=2):
            y = y.narrow(axis, a, y.shape[axis] - a - b) if a or b else y
        return channels_to_phases(y, list(self.stride)) if self.transposed else y

    def of_symbol(self, symbol: Tensor) -> Tensor:
        """The matrices that are applied, from those of the convolution: their adjoints."""
        if not self.transposed:
            return symbol
        return symbol.unflatten(1, (self.groups, -1)).mH.flatten(1, 2)


def apply_spectral(
    input: Tensor, real: Tensor, imag: Tensor, bias: Tensor | None, geometry: SpectralGeometry
) -> Tensor:
    """The layer: batched or not, with its bias."""
    axes = len(geometry.stride)
    if input.dim() == axes + 1:
        return apply_spectral(input[None], real, imag, bias, geometry)[0]
    x = geometry.before(input)
    own = None if geometry.transposed else bias  # of channels that become phases, or are the last
    y = geometry.after(spectral_conv(x, real, imag, own, tuple(x.shape[2:]), geometry.groups))
    return _with_bias(y, bias) if geometry.transposed else y


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.to(y.dtype).reshape(-1, *[1] * (y.dim() - 2))


class _OfOneSize(nn.Module):
    """A stateless layer for inputs of one size."""

    bias: Tensor | None

    def __init__(self, size: Size, geometry: SpectralGeometry, channels: int) -> None:
        super().__init__()
        self.size, self.geometry, self.in_channels = size, geometry, channels

    def _checked(self, input: Tensor) -> Tensor:
        check_image(input, self.in_channels, len(self.size))
        if tuple(input.shape[-len(self.size) :]) != self.size:
            raise ValueError(
                f"`input` must be of the spatial size {self.size}, for which the layer was frozen; "
                f"got {tuple(input.shape[-len(self.size) :])}."
            )
        return input

    def extra_repr(self) -> str:
        """Sizes."""
        text = f"{self.in_channels}, size={self.size}"
        for name in ("stride", "left", "right"):
            values = getattr(self.geometry, name)
            if set(values) - {1 if name == "stride" else 0}:
                text += f", {name}={values}"
        text += f", groups={self.geometry.groups}" if self.geometry.groups > 1 else ""
        return text + (", transposed=True" if self.geometry.transposed else "")


@final
class SpectralConv(_OfOneSize):
    r"""Convolution or its adjoint for one input size, as one matrix per frequency.

    What :func:`taut.freeze` makes of layers whose kernel fills the periodic domain of its input
    (:class:`taut.Cayley` and others): matrices at half of the frequencies as buffers `real` and
    `imag`, in the order of `taut.linalg.twiddles.half_plane`. Transforms along axes of up to 64
    positions are products with fixed matrices, so that their rounding is proven.

    Guarantee: norm the largest of those of the matrices; :func:`taut.lipschitz_bound` proves it.
    Cost: c^2 products at half of the :math:`n^d` frequencies, and the transforms.

    Args:
        real: real parts, (f, out_channels, in_channels / groups), of a layer without a stride.
        imag: imaginary parts; 0 at frequencies that are their own mirror images.
        bias: of each output channel, or None.
        size: spatial size of the inputs.
        geometry: stride, zeros, groups.

    Raises:
        ValueError: (forward) if the input is of another size.

    Example:
        >>> layer = taut.nn.Conv2d(2, 4, 3, parametrization=taut.LOT)
        >>> frozen = taut.freeze(layer, input_shape=(2, 5, 6))
        >>> type(frozen).__name__, frozen.real.shape
        ('SpectralConv', torch.Size([16, 4, 2]))
        >>> x = torch.rand(1, 2, 5, 6)
        >>> torch.allclose(frozen(x), layer(x))
        True
    """

    real: Tensor
    imag: Tensor

    def __init__(
        self,
        real: Tensor,
        imag: Tensor,
        bias: Tensor | None,
        size: Size,
        geometry: SpectralGeometry,
    ) -> None:
        phases = 1 if geometry.transposed else math.prod(geometry.stride)
        super().__init__(size, geometry, real.shape[2] * geometry.groups // phases)
        self.register_buffer("real", real)
        self.register_buffer("imag", imag)
        self.register_buffer("bias", bias)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply the layer."""
        x = self._checked(input)
        return apply_spectral(x, self.real, self.imag, self.bias, self.geometry)

    def as_taps(self) -> "FullSizeConv":
        """The same function, up to rounding, as a circular convolution with a full-size kernel."""
        domain = self.geometry.domain(self.size)
        kernel = kernel_of_symbol(torch.complex(self.real, self.imag), domain)
        return FullSizeConv(kernel, self.bias, self.size, self.geometry)


@final
class FullSizeConv(_OfOneSize):
    r"""Circular convolution with a kernel of the size of its input.

    What :func:`taut.export.export` writes for a :class:`SpectralConv`: plain padding, convolution,
    reshaping.

    Guarantee: norm at most the largest of the matrices of its kernel at all frequencies;
        :func:`taut.lipschitz_bound` proves it.
    Cost: a convolution with as many taps as positions.

    Args:
        kernel: (out_channels, in_channels / groups, *domain), of a layer without a stride.
        bias: of each output channel, or None.
        size: spatial size of the inputs.
        geometry: stride, zeros, groups.

    Example:
        >>> geometry = SpectralGeometry((1,), (0,), (0,))
        >>> FullSizeConv(torch.tensor([[[0.0, 1.0]]]), None, (2,), geometry)(torch.eye(2)[:1, None])
        tensor([[[0., 1.]]])
    """

    kernel: Tensor

    def __init__(
        self, kernel: Tensor, bias: Tensor | None, size: Size, geometry: SpectralGeometry
    ) -> None:
        phases = 1 if geometry.transposed else math.prod(geometry.stride)
        super().__init__(size, geometry, kernel.shape[1] * geometry.groups // phases)
        self.register_buffer("kernel", kernel)
        self.register_buffer("bias", bias)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply the layer."""
        x = self._checked(input)
        if x.dim() == len(self.size) + 1:
            return self(x[None])[0]
        return _with_bias(self._convolved(self.geometry.before(x)), self.bias)

    def _convolved(self, x: Tensor) -> Tensor:
        behind = tuple(n - 1 for n in x.shape[2:])
        if any(behind):
            x = F.pad(x, torch_pads((0,) * len(behind), behind), "circular")
        y = CONVOLUTIONS[len(behind)](x, self.kernel, groups=self.geometry.groups)
        return self.geometry.after(y)


@op("spectral_conv")
class _SpectralConvOp(AbstractOp):
    affine = True

    def operator(self, site: Site) -> SpectralOperator:
        symbols = torch.complex(site.tensors["real"], site.tensors["imag"])
        return SpectralOperator(symbols, tuple(site.shapes[0][1:]), site.args["groups"])

    def rounding(self, site: Site) -> Rounding:
        operator = self.operator(site)
        try:
            count, absolute = operator.rounding()
        except ValueError as error:
            raise UnprovenError(str(error)) from None
        # Underflow in the first transform: at most 2 c_in N numbers lose 2 n smallest normal ones
        # on each axis, and m is more than twice the sum of these: at most q sqrt(2 c_in N) m / 2
        # behind the matrices. The composition of layers accounts for 10 m sqrt(c_out N).
        inputs, outputs = operator.in_shape[0], operator.out_shape[0]
        if operator.norm_bound().value ** 2 * inputs > 100 * outputs:
            raise UnprovenError("its norm is too large for its bound of underflow")
        bias, constant = site.tensors.get("bias"), 0.0
        if bias is not None:
            copies = math.prod(site.shape[1:])
            constant = up_product(norm_upper(bias), up_root(float(copies)))
        return Rounding(count, absolute, constant)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        real, imag = (like(site.tensors[role], x[0]) for role in ("real", "imag"))
        bias = like(site.tensors["bias"], x[0]) if "bias" in site.tensors else None
        return spectral_conv(x[0], real, imag, bias, tuple(x[0].shape[2:]), site.args["groups"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        raise ValueError("it is of one size: pass taut.freeze(model, input_shape=...)")
