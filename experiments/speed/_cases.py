"""What is measured: single layers and whole nets, each with a short name that can be typed."""

import re
from dataclasses import dataclass
from functools import partial
from typing import final

from torch import nn

from experiments._models import ARCHITECTURES, net
from taut.nn import Conv2d, MaxMin
from taut.parametrizations import methods

_LAYER = re.compile(r"(\d+)x(\d+)(?:x(\d+)(?:s(\d+))?(?:@(\d+))?)?(?:b(\d+))?")
_NET = re.compile(rf"({'|'.join(ARCHITECTURES)})-(mnist|cifar10)(?:b(\d+))?")
_STACK = re.compile(r"stack-(\d+)x(\d+)(?:@(\d+))?(?:b(\d+))?")
_SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_BATCH = 128


@final
@dataclass(frozen=True)
class LayerCase:
    """One layer on one input: a convolution with circular padding, or a dense layer."""

    inputs: int  # channels or features of the input
    outputs: int  # those of the output
    kernel: int = 0  # taps along each of two axes; 0 for a dense layer
    stride: int = 1  # of the convolution
    size: int = 16  # height and width of the image
    batch: int = 16  # images

    def __post_init__(self) -> None:
        numbers = (self.inputs, self.outputs, self.stride, self.size, self.batch)
        if min(numbers) < 1 or self.kernel < 0:
            raise ValueError(f"Numbers of a layer must be at least 1; got {self.name}.")
        if self.kernel and self.size % self.stride:
            raise ValueError(
                f"`size` must be a multiple of the stride; got {self.size} and {self.stride}."
            )

    @property
    def name(self) -> str:
        """What `parse_layer` reads.

        >>> LayerCase(64, 128, 4, stride=2).name
        '64x128x4s2@16b16'
        """
        text = f"{self.inputs}x{self.outputs}"
        if self.kernel:
            stride = f"s{self.stride}" if self.stride > 1 else ""
            text += f"x{self.kernel}{stride}@{self.size}"
        return f"{text}b{self.batch}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.inputs, self.size, self.size) if self.kernel else (self.inputs,)

    @property
    def positions(self) -> int:
        """Outputs of a channel over the batch."""
        return self.batch * ((self.size // self.stride) ** 2 if self.kernel else 1)


@final
@dataclass(frozen=True)
class NetCase:
    """A net of `taut.models`, or a stack of equal 3x3 layers with MaxMin between them."""

    architecture: str  # as `taut.models` names it, or "stack"
    input_shape: tuple[int, int, int]  # channels, height and width
    batch: int = _BATCH  # images in a training step
    depth: int = 0  # layers of a stack, 0 for the others

    @property
    def name(self) -> str:
        """What `parse_net` reads.

        >>> NetCase("stack", (256, 16, 16), batch=16, depth=12).name
        'stack-12x256@16b16'
        """
        if self.architecture == "stack":
            channels, size, _ = self.input_shape
            return f"stack-{self.depth}x{channels}@{size}b{self.batch}"
        data = next(name for name, shape in _SHAPES.items() if shape == self.input_shape)
        return f"{self.architecture}-{data}b{self.batch}"

    def build(self, method: str | None = None) -> nn.Sequential:
        """The net in layers of taut, freshly initialised; of their default without a method."""
        if self.architecture != "stack":
            return net(self.architecture, self.input_shape, method)
        conv = Conv2d if method is None else partial(Conv2d, parametrization=methods()[method])
        channels = self.input_shape[0]
        layers: list[nn.Module] = []
        for _ in range(self.depth):
            layers += [conv(channels, channels, 3), MaxMin()]
        return nn.Sequential(*layers[:-1])


Case = LayerCase | NetCase


def parse_layer(text: str) -> LayerCase:
    """A layer from its name; without a kernel a dense one, of batch 128 unless it is said.

    >>> parse_layer("128x128x3").name, parse_layer("4096x512").name
    ('128x128x3@16b16', '4096x512b128')
    """
    match = _LAYER.fullmatch(text)
    if not match or 0 in [int(x) for x in match.groups() if x]:
        raise ValueError(
            "A layer is INxOUTxKERNEL with sSTRIDE, @SIZE and bBATCH if wanted, all from 1, such "
            f"as 128x128x3, 64x128x4s2@32b8 or (dense) 4096x512; got {text!r}."
        )
    inputs, outputs, kernel, stride, size, batch = (int(x) if x else None for x in match.groups())
    return LayerCase(
        inputs or 0,
        outputs or 0,
        kernel or 0,
        stride=stride or 1,
        size=size or 16,
        batch=batch or (16 if kernel else _BATCH),
    )


def parse_net(text: str) -> NetCase:
    """A net from its name: large-cifar10, small-mnist, ... or stack-DEPTHxCHANNELS.

    >>> parse_net("stack-12x256").name, parse_net("large-cifar10b64").batch
    ('stack-12x256@16b16', 64)
    """
    if (match := _NET.fullmatch(text)) and match[3] != "0":
        architecture, data, batch = match.groups()
        return NetCase(architecture, _SHAPES[data], int(batch or _BATCH))
    if (match := _STACK.fullmatch(text)) and min(int(x) for x in match.groups() if x) > 0:
        depth, channels, size, batch = (int(x) if x else 16 for x in match.groups())
        return NetCase("stack", (channels, size, size), batch, depth)
    *names, last = (f"{name}-" for name in ARCHITECTURES)
    raise ValueError(
        f"A net is {', '.join(names)} or {last} with mnist or cifar10, or stack-DEPTHxCHANNELS, "
        f"with @SIZE (a stack) and bBATCH if wanted, such as large-cifar10b64; got {text!r}."
    )


def parse_case(name: str) -> Case:
    """The case of a name, as tables and records hold it."""
    return parse_layer(name) if name[:1].isdigit() else parse_net(name)
