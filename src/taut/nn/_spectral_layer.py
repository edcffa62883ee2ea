"""How convolutions hold kernels that fill the periodic domain of their input."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from taut.linalg.embedding import interleaved
from taut.nn._padding import Pads, Size
from taut.nn._parametrized import SharedTensors
from taut.nn._spectral_conv import SpectralConv, SpectralGeometry, apply_spectral
from taut.parametrizations import (
    AbstractSpectral,
    dilated_symbol,
    kernel_of_symbol,
    read_symbol,
)
from taut.program import lipschitz_bound

if TYPE_CHECKING:
    from taut.nn._conv import _ConvNd


def check_spectral(layer: "_ConvNd", *, transposed: bool) -> None:
    """Refuse arguments that a kernel of the size of the input cannot have.

    Integers that pad an input of every size as `"same"` does become `"same"`.
    """
    name = type(layer.parametrization).__name__
    if layer.padding != "same" and not _pads_same(layer, transposed=transposed):
        raise ValueError(
            f"`padding` must be 'same', or integers that make an output of that size, for {name}, "
            f"whose kernel fills the periodic domain of its input; got {layer.padding!r}."
        )
    layer.padding = "same"
    if layer.padding_mode not in ("circular", "zeros"):
        raise ValueError(
            f"`padding_mode` must be 'circular' or 'zeros' for {name}; got {layer.padding_mode!r}."
        )
    if any(s > 1 and d > 1 for s, d in zip(layer.stride, layer.dilation, strict=True)):
        raise ValueError(
            f"`dilation` must be 1 where `stride` is above 1 for {name}; got "
            f"dilation={layer.dilation}, stride={layer.stride}."
        )


def _pads_same(layer: "_ConvNd", *, transposed: bool) -> bool:
    """Whether a padding in numbers is that of `"same"`, also where a stride divides no size."""
    if any(getattr(layer, "output_padding", ())):
        return False
    if not transposed and layer.padding_mode != "circular" and set(layer.stride) != {1}:
        return False
    axes = zip(layer.padding, layer.span, layer.stride, strict=True)
    return all(2 * int(p) == k - s for p, k, s in axes)


def geometry_of(layer: "_ConvNd", *, transposed: bool) -> SpectralGeometry:
    """What surrounds the convolution on the periodic domain.

    With `padding_mode="zeros"` the domain is larger, by zeros as many as the raw kernel reaches:
    an isometry in front of the convolution, and a projection behind it.
    """
    reach = [0] * layer.axes
    if layer.padding_mode == "zeros":
        axes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
        reach = [d * (k // s - 1) for k, s, d in axes]
    left = tuple(r // 2 for r in reach)
    right = tuple(r - r // 2 for r in reach)
    return SpectralGeometry(layer.stride, left, right, layer.groups, transposed)


def symbol_of(layer: "_ConvNd", domain: Size) -> Tensor:
    """The symbol of a layer on a periodic domain: dilated, and times its gain."""
    method = _method(layer)
    size = _undilated(layer, domain)
    symbol = dilated_symbol(read_symbol(method, size), size, layer.dilation, domain)
    return layer._amplified(symbol)


def kernel_of(layer: "_ConvNd", domain: Size) -> Tensor:
    """The kernel on a periodic domain, `(outputs, inputs / groups, *stride * domain)`."""
    return interleaved(kernel_of_symbol(symbol_of(layer, domain), domain), layer.stride)


def applied(layer: "_ConvNd", input: Tensor, *, transposed: bool) -> Tensor:
    """The forward pass of a layer."""
    geometry = geometry_of(layer, transposed=transposed)
    domain = geometry.domain(tuple(input.shape[-layer.axes :]))
    symbol = geometry.of_symbol(symbol_of(layer, domain))
    return apply_spectral(input, symbol.real, symbol.imag, layer.bias, geometry)


def frozen_spectral(layer: "_ConvNd", tensors: SharedTensors, *, transposed: bool) -> nn.Module:
    """A stateless layer of one size; a plain convolution where there are only a few taps."""
    size = tensors.input_size(layer)
    geometry = geometry_of(layer, transposed=transposed)
    domain = geometry.domain(size)
    plain = set(layer.stride) == {1} and layer.padding_mode == "circular" and not transposed
    if tensors.window is not None:
        return _windowed(layer, tensors, domain, transposed=transposed)
    if plain and (found := _few_taps(layer, tensors, domain)) is not None:
        return found
    symbol = geometry.of_symbol(symbol_of(layer, domain))
    real, imag = (part.detach().clone() for part in (symbol.real, symbol.imag))
    # As the layer has it while it runs: products sum in another order for other strides.
    real, imag = (part.clone(memory_format=torch.contiguous_format) for part in (real, imag))
    return SpectralConv(real, imag, tensors.bias(layer.bias), size, geometry)


def _method(layer: "_ConvNd") -> AbstractSpectral:
    assert isinstance(layer.parametrization, AbstractSpectral)
    return layer.parametrization


def _undilated(layer: "_ConvNd", domain: Size) -> Size:
    """The periodic domain of which only the frequencies occur."""
    return tuple(n // math.gcd(n, d) for n, d in zip(domain, layer.dilation, strict=True))


def _few_taps(layer: Any, tensors: SharedTensors, domain: Size) -> nn.Module | None:
    """A plain dilated convolution, where the method has one and torch can wrap the input so far."""
    size = _undilated(layer, domain)
    taps = _method(layer).taps(size)
    if taps is None:
        return None
    counts = taps.shape[2:]
    steps = zip(layer.dilation, size, counts, strict=True)
    # Positions are modulo the size of the domain. One tap an axis has no dilation.
    dilation = tuple(d * (m // k) if k > 1 else 1 for d, m, k in steps)
    dilation = tuple(d % n or n for d, n in zip(dilation, domain, strict=True))
    left = tuple(d * ((k - 1) // 2) for d, k in zip(dilation, counts, strict=True))
    right = tuple(d * (k // 2) for d, k in zip(dilation, counts, strict=True))
    if any(r > n for r, n in zip(right, domain, strict=True)):
        return None
    kernel = _centred(taps, counts)
    pads = Pads((0,) * layer.axes, left, right)
    return layer.as_plain(layer._amplified(kernel), tensors.bias(layer.bias), pads, dilation)


def _centred(kernel: Tensor, window: Size) -> Tensor:
    """The middle taps of a kernel on a periodic domain, whose first tap is at the origin."""
    for axis, k in enumerate(window, start=2):
        kernel = kernel.roll((k - 1) // 2, axis).narrow(axis, 0, k)
    return kernel


def _windowed(layer: Any, tensors: SharedTensors, domain: Size, *, transposed: bool) -> nn.Module:
    """A plain convolution with the middle taps alone, over its norm if that is above the gain."""
    assert tensors.window is not None
    if transposed:
        raise ValueError("`window` must be None for a model with transposed convolutions.")
    window = tuple(
        min(-(-tensors.window // s), n) for s, n in zip(layer.stride, domain, strict=True)
    )
    middle = _centred(kernel_of_symbol(symbol_of(layer, domain), domain), window)
    kernel = interleaved(middle, layer.stride)
    left = tuple(s * ((k - 1) // 2) for s, k in zip(layer.stride, window, strict=True))
    right = tuple(s * (k // 2) for s, k in zip(layer.stride, window, strict=True))
    pads, ones = Pads((0,) * layer.axes, left, right), (1,) * layer.axes
    plain = layer.as_plain(kernel, tensors.bias(layer.bias), pads, ones)
    norm = float(lipschitz_bound(plain, (layer.in_channels, *tensors.input_size(layer))))
    if norm > layer.gain:
        kernel = kernel * (layer.gain / norm)
        plain = layer.as_plain(kernel, tensors.bias(layer.bias), pads, ones)
    return plain
