"""What is measured: single layers and whole nets, each with a short name that can be typed."""

import re
from dataclasses import dataclass
from typing import final, get_args

from torch import nn

from taut.models import ModelConfig, build
from taut.models.config import Architecture
from taut.nn import Conv2d, MaxMin
from taut.parametrizations import methods

_LAYER = re.compile(r"(\d+)x(\d+)(?:x(\d+)(?:s(\d+))?(?:@(\d+))?)?(?:b(\d+))?")
_NET = re.compile(rf"({'|'.join(get_args(Architecture))})-(mnist|cifar10)(?:b(\d+))?")
_STACK = re.compile(r"stack-(\d+)x(\d+)(?:@(\d+))?(?:b(\d+))?")
_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_CLASSES = 10
_BATCH = 128


@final
@dataclass(frozen=True)
class LayerCase:
    """One layer on one input: a convolution on a torus, or a dense layer.

    Args:
        inputs: channels or features of the input.
        outputs: those of the output.
        kernel: taps along each of two axes; 0 for a dense layer.
        stride: of the convolution.
        size: height and width of the image.
        batch: images.

    Raises:
        ValueError: if a number is not positive, or the stride does not divide the size.

    Example:
        >>> LayerCase(64, 128, 4, stride=2).name
        '64x128x4s2@16b16'
    """

    inputs: int
    outputs: int
    kernel: int = 0
    stride: int = 1
    size: int = 16
    batch: int = 16

    def __post_init__(self) -> None:
        numbers = (self.inputs, self.outputs, self.stride, self.size, self.batch)
        if min(numbers) < 1 or self.kernel < 0:
            raise ValueError(f"A layer is made of positive numbers; got {self}.")
        if self.kernel and self.size % self.stride:
            raise ValueError(
                f"`size` must be a multiple of the stride; got {self.size} and {self.stride}."
            )

    @property
    def name(self) -> str:
        """What `parse_layer` reads."""
        text = f"{self.inputs}x{self.outputs}"
        if self.kernel:
            stride = f"s{self.stride}" if self.stride > 1 else ""
            text += f"x{self.kernel}{stride}@{self.size}"
        return f"{text}b{self.batch}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return (self.inputs, self.size, self.size) if self.kernel else (self.inputs,)

    @property
    def positions(self) -> int:
        """Outputs of a channel over the batch."""
        return self.batch * ((self.size // self.stride) ** 2 if self.kernel else 1)


@final
@dataclass(frozen=True)
class NetCase:
    """A net of `taut.models`, or a stack of equal 3x3 layers with MaxMin between them.

    Args:
        architecture: "small", "large", "fc3", "wide" or "stack".
        input_shape: channels, height and width.
        batch: images in a training step.
        depth: layers of a stack, 0 for the others.

    Example:
        >>> NetCase("stack", (256, 16, 16), batch=16, depth=12).name
        'stack-12x256@16b16'
    """

    architecture: str
    input_shape: tuple[int, int, int]
    batch: int = _BATCH
    depth: int = 0

    @property
    def name(self) -> str:
        """What `parse_net` reads."""
        if self.architecture == "stack":
            channels, size, _ = self.input_shape
            return f"stack-{self.depth}x{channels}@{size}b{self.batch}"
        data = next(name for name, shape in _SHAPES.items() if shape == self.input_shape)
        return f"{self.architecture}-{data}b{self.batch}"

    def build(self, parametrization: str | None = None) -> nn.Sequential:
        """The net in layers of taut, freshly initialised.

        Args:
            parametrization: a name in `taut.parametrizations`; the layers' own default if None.

        Example:
            >>> len(NetCase("stack", (4, 8, 8), depth=3).build())
            5
        """
        if self.architecture == "stack":
            return self._stack(parametrization)
        named = {} if parametrization is None else {"parametrization": parametrization}
        return build(
            ModelConfig(self.architecture, self.input_shape, classes=_CLASSES, **named)  # pyright: ignore[reportArgumentType]
        )

    def _stack(self, parametrization: str | None) -> nn.Sequential:
        channels = self.input_shape[0]
        layers: list[nn.Module] = []
        for _ in range(self.depth):
            if parametrization is None:
                layer = Conv2d(channels, channels, 3)
            else:
                layer = Conv2d(channels, channels, 3, parametrization=methods()[parametrization])
            layers += [layer, MaxMin()]
        return nn.Sequential(*layers[:-1])


Case = LayerCase | NetCase


def parse_layer(text: str) -> LayerCase:
    """A layer from its name: INxOUTxKERNEL, with sSTRIDE, @SIZE and bBATCH if wanted.

    Args:
        text: as typed; INxOUT without a kernel is a dense layer, of batch 128 unless it is said.

    Raises:
        ValueError: if it is no such name.

    Example:
        >>> parse_layer("128x128x3").name, parse_layer("4096x512").name
        ('128x128x3@16b16', '4096x512b128')
    """
    found = _LAYER.fullmatch(text)
    if not found:
        raise ValueError(
            "A layer is INxOUTxKERNEL with sSTRIDE, @SIZE and bBATCH if wanted, such as "
            f"128x128x3, 64x128x4s2@32b8 or (dense) 4096x512; got {text!r}."
        )
    inputs, outputs, kernel, stride, size, batch = (int(x) if x else None for x in found.groups())
    return LayerCase(
        inputs or 0,
        outputs or 0,
        kernel or 0,
        stride=stride or 1,
        size=size or 16,
        batch=batch or (16 if kernel else _BATCH),
    )


def parse_net(text: str) -> NetCase:
    """A net from its name: large-cifar10, small-mnist, fc3-mnist, ... or stack-DEPTHxCHANNELS.

    Args:
        text: as typed; bBATCH may follow, for a stack @SIZE before it.

    Raises:
        ValueError: if it is no such name.

    Example:
        >>> parse_net("stack-12x256").name, parse_net("large-cifar10b64").batch
        ('stack-12x256@16b16', 64)
    """
    if found := _NET.fullmatch(text):
        architecture, data, batch = found.groups()
        return NetCase(architecture, _SHAPES[data], int(batch or _BATCH))
    if (found := _STACK.fullmatch(text)) and min(int(x) for x in found.groups() if x) > 0:
        depth, channels, size, batch = (int(x) if x else 16 for x in found.groups())
        return NetCase("stack", (channels, size, size), batch, depth)
    raise ValueError(
        "A net is small-, large-, fc3- or wide- with mnist or cifar10, or stack-DEPTHxCHANNELS, "
        f"with @SIZE (a stack) and bBATCH if wanted, such as large-cifar10b64; got {text!r}."
    )


def parse_case(name: str) -> Case:
    """The case of a name, as tables and records hold it.

    Example:
        >>> parse_case("4096x512b128").kernel
        0
    """
    return parse_layer(name) if name[0].isdigit() else parse_net(name)
