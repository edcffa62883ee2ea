"""Layers between channels of images, as architectures make them; every method has one."""

from typing import Any, NamedTuple, final

from torch import nn

from taut.models._base import Parametrization, class_of, dense_method
from taut.nn import Conv2d, PotentialResidual2d, Sandwich2d, ShiftMix2d, SOC2d
from taut.parametrizations import (
    BCOP,
    CPL,
    ECO,
    SLL,
    AbstractParametrization,
    Orthogonal,
    methods,
)

LAYERS = ("Conv2d", "PotentialResidual2d", "Sandwich2d", "ShiftMix2d", "SOC2d")
"""Classes of layers that the architectures with a choice can have."""


def make_layer(
    layer: str,
    channels: tuple[int, int],
    kernel_size: int,
    stride: int = 1,
    *,
    parametrization: Parametrization,
    **options: Any,
) -> nn.Module:
    """A layer of one of the classes between channels of images.

    The size of its output is that of the input over the stride, rounded up. If channels or size
    change, an orthogonal convolution changes them in front of a layer that cannot.

    Args:
        layer: the class, one of :data:`LAYERS`.
        channels: of input and output.
        kernel_size: in pixels. SOC rounds it down to an odd size, ECO rounds it up to an even one,
            and shift layers ignore it: they move channels by one position.
        stride: in pixels.
        parametrization: of the kernel, or of the matrices of shift layers; SOC has none.
        options: padding mode, device and dtype.

    Raises:
        ValueError: if the layer refuses its sizes, or SOC is given a parametrization.
    """
    inputs, outputs = channels
    sizes = (*channels, kernel_size, stride)
    if layer == "Conv2d":
        if class_of(parametrization) is ECO and kernel_size > 1:
            sizes = (*channels, kernel_size + kernel_size % 2, stride)
        return Conv2d(*sizes, parametrization=parametrization, **options)
    if layer == "Sandwich2d":
        return Sandwich2d(*sizes, parametrization=parametrization, **options)
    if layer == "SOC2d":
        if parametrization is not BCOP:
            raise ValueError(
                "`parametrization` must be left at BCOP for layer='SOC2d', whose kernel has a "
                f"form of its own; got {parametrization}."
            )
        return SOC2d(*channels, kernel_size - 1 + kernel_size % 2, stride, **options)
    square = _square_layer(layer, outputs, kernel_size, parametrization, options)
    if inputs == outputs and stride == 1:
        return square
    options.pop("padding_mode", None)
    return nn.Sequential(Conv2d(*channels, stride, stride, **options), square)


def _square_layer(
    layer: str,
    channels: int,
    kernel_size: int,
    parametrization: Parametrization,
    options: dict[str, Any],
) -> nn.Module:
    """A layer of a class that keeps channels and size."""
    if layer == "ShiftMix2d":
        method = dense_method(parametrization)
        return ShiftMix2d(channels, channels, parametrization=method, **options)
    options = {"parametrization": parametrization, **options}
    return PotentialResidual2d(channels, None, kernel_size, **options)


@final
class Layer(NamedTuple):
    """A layer class with a parametrization; calling it builds a layer.

    Example:
        >>> Layer("Sandwich2d", taut.AOL)(2, 4, 3, 1)(torch.zeros(1, 2, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    layer: str
    parametrization: type[AbstractParametrization]

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, **options: Any
    ) -> nn.Module:
        """A layer between these channels."""
        channels, method = (in_channels, out_channels), {"parametrization": self.parametrization}
        return make_layer(self.layer, channels, kernel_size, stride, **method, **options)


def layers() -> dict[str, Layer]:
    """Layers by name: a convolution of each method, then other layer classes.

    Tables and figures of all methods iterate over them. Each is a choice for
    :class:`taut.models.SimpleNet` and :class:`taut.models.LipConvNet`.

    Example:
        >>> kind = layers()["PotentialResidual2d, SLL"]
        >>> kind(4, 8, 3, 2)(torch.zeros(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
        >>> net = taut.models.SimpleNet(width=4, depth=1, layer=kind.layer)
        >>> net = net.build((3, 32, 32), 10, parametrization=kind.parametrization)
    """
    kernels = {name: method for name, method in methods().items() if not method.matrices_only}
    residual = "PotentialResidual2d"
    return {
        **{name: Layer("Conv2d", method) for name, method in kernels.items()},
        **{f"{residual}, {cls.__name__}": Layer(residual, cls) for cls in (BCOP, SLL, CPL)},
        "Sandwich2d": Layer("Sandwich2d", BCOP),
        "ShiftMix2d": Layer("ShiftMix2d", Orthogonal),
        "SOC2d": Layer("SOC2d", BCOP),
    }
