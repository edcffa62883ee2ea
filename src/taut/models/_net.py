"""What architectures of named parts share: the factory of their layers, which tracks shapes."""

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import nn

from taut._arguments import shape_of_image, whole
from taut.models._base import AbstractModel, Parametrization, dense_method
from taut.models._layers import LAYERS, make_layer
from taut.nn import (
    Conv2d,
    FirstChannels,
    InvertibleDownsample2d,
    Linear,
    MaxMin,
    UnitRowLinear,
)
from taut.parametrizations import AOL

Part = tuple[str, nn.Module]
Configurations = Mapping[str, Mapping[str, Any]]


@final
class Parts:
    """Makes the layers of a net in their order, and tracks the shape of what the next one reads.

    Args:
        shape: of one input.
        classes: number of logits.
        parametrization: of convolutions.
        dense: of dense layers.
        padding_mode: of convolutions; None for the default of each layer.
        factory: device and dtype.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        parametrization: Parametrization,
        dense: Parametrization,
        padding_mode: str | None,
        factory: dict[str, Any],
    ) -> None:
        self.shape: tuple[int, ...] = shape
        self.classes = classes
        self.parametrization, self.dense = parametrization, dense
        self.padding = {} if padding_mode is None else {"padding_mode": padding_mode}
        self.factory = factory

    @property
    def channels(self) -> int:
        """Channels or features that the next layer reads."""
        return self.shape[0]

    def strided(self, channels: int, stride: int) -> tuple[int, int]:
        """Update the shape for a layer; its channels before and after."""
        before = self.channels
        self.shape = (channels, *(math.ceil(n / stride) for n in self.shape[1:]))
        return before, channels

    def conv(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        method: Parametrization | None = None,
        **options: Any,
    ) -> nn.Module:
        """A convolution, with the parametrization or another method."""
        between = self.strided(channels, stride)
        options |= self.padding | self.factory
        method = method or self.parametrization
        return Conv2d(*between, kernel_size, stride, parametrization=method, **options)

    def layer(self, layer: str, channels: int, kernel_size: int, stride: int = 1) -> nn.Module:
        """A layer of one of the classes, with the parametrization."""
        between = self.strided(channels, stride)
        options: dict[str, Any] = {"parametrization": self.parametrization}
        options |= self.padding | self.factory
        return make_layer(layer, between, kernel_size, stride, **options)

    def padded(self, factor: int) -> Iterator[Part]:
        """Zeros at the bottom and the right, unless the factor divides both sizes."""
        channels, height, width = self.shape
        below, right = -height % factor, -width % factor
        if below or right:
            self.shape = (channels, height + below, width + right)
            yield "pad", nn.ZeroPad2d((0, right, 0, below))

    def widened(self, channels: int) -> nn.Module:
        """Zero channels after those of the image."""
        missing = channels - self.channels
        if missing < 0:
            raise ValueError(
                f"`width` must be at least {self.channels}, the channels of the input; "
                f"got {channels}."
            )
        self.shape = (channels, *self.shape[1:])
        return nn.ZeroPad3d((0, 0, 0, 0, 0, missing))

    def unshuffled(self, factor: int) -> nn.Module:
        """Blocks of pixels as channels."""
        channels, *sizes = self.shape
        self.shape = (channels * factor**2, *(n // factor for n in sizes))
        return InvertibleDownsample2d(factor)

    def first(self, channels: int, setting: str = "classes") -> nn.Module:
        """The first channels or features, as many as a setting says."""
        if channels > self.channels:
            raise ValueError(
                f"`{setting}` must be at most {self.channels}, the outputs of the layer before; "
                f"got {channels}."
            )
        self.shape = (channels, *self.shape[1:])
        return FirstChannels(channels)

    def pooled(self, pool: nn.Module, window: int | None = None) -> nn.Module:
        """A pool of windows, or of all pixels."""
        channels, *sizes = self.shape
        self.shape = (channels, *(1 if window is None else n // window for n in sizes))
        return pool

    def column(self) -> nn.Module:
        """All pixels as channels of one pixel: dense layers are then 1x1 layers."""
        sizes = self.shape[1:]
        self.shape = (math.prod(self.shape), 1, 1)
        return InvertibleDownsample2d(sizes)

    def flat(self) -> nn.Module:
        """An image as features."""
        self.shape = (math.prod(self.shape),)
        return nn.Flatten()

    def linear(self, features: int) -> nn.Module:
        """A dense layer."""
        before, self.shape = self.channels, (features,)
        return Linear(before, features, parametrization=self.dense, **self.factory)

    def dense_stack(self, features: int, count: int) -> nn.Module:
        """Dense layers of one width, each followed by MaxMin."""
        return nn.Sequential(
            *[layer for _ in range(count) for layer in (self.linear(features), MaxMin())]
        )

    def head(self, unit_rows: bool) -> nn.Module:
        """The last layer: rows of norm 1, or a dense layer."""
        if unit_rows:
            return UnitRowLinear(self.channels, self.classes, **self.factory)
        return self.linear(self.classes)


@dataclass(frozen=True, kw_only=True)
class AbstractNet(AbstractModel):
    """A chain of named parts, for images of any size.

    A subclass defines :meth:`parts`, and may state the `method` of its layers and the settings of
    its `configurations`.

    Args:
        padding_mode: of the convolutions; None for the default of each layer.

    Example:
        >>> [name for name, _ in taut.models.LipNeXt(depth=1, width=8).build((3, 6, 6), 4)[:2]
        ...     .named_children()]
        ['stem', 'block1']
    """

    configurations: ClassVar[Configurations]
    matrices: ClassVar[Parametrization | None] = None
    """Of dense layers; None for what the parametrization is on a matrix."""

    padding_mode: str | None = None

    @abstractmethod
    def parts(self, make: Parts) -> Iterator[Part]:
        """Names and modules of the parts, in order."""

    @final
    def build(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        parametrization: Parametrization | None = None,
        dense: Parametrization | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Sequential:
        """A freshly initialised model; see :meth:`AbstractModel.build`.

        Without a parametrization, layers have the `method` of the architecture. Layers of
        :class:`taut.AOL` start at the identity.
        """
        shape = shape_of_image("input_shape", input_shape)
        whole("classes", classes)
        method = parametrization or self.method
        matrices = dense or self.matrices or dense_method(method)
        methods = (_for_depth(method), _for_depth(matrices))
        factory = {"device": device, "dtype": dtype}
        make = Parts(shape, classes, *methods, self.padding_mode, factory)
        return nn.Sequential(OrderedDict(self.parts(make)))


def _for_depth(method: Parametrization) -> Parametrization:
    """The method with the initialisation that deep nets need."""
    return partial(AOL, init="identity") if method is AOL else method


def check_layer(layer: str) -> None:
    """Refuse a name that is not in `LAYERS`."""
    if layer not in LAYERS:
        raise ValueError(f"`layer` must be one of {', '.join(LAYERS)}; got {layer!r}.")
