"""The patchwise net of almost-orthogonal layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from taut._arguments import check_fields, whole
from taut.models._net import AbstractNet, Configurations, Part, Parts
from taut.nn import MaxMin
from taut.parametrizations import AOL


@final
@dataclass(frozen=True, kw_only=True)
class AOLNet(AbstractNet):
    """The AOL network: image patches as channels, convolutions, then dense layers.

    Patches of `patch` x `patch` pixels as channels, a 1x1 convolution to `width` channels, `depth`
    convolutions of 3x3, a 1x1 convolution of which the first `kept` channels stay, `dense_depth`
    square dense layers, of which the first features are the logits. MaxMin follows each layer but
    the two after which channels are dropped.

    Guarantee: 1-Lipschitz in l2.

    Args:
        patch: pixels of a side of a patch.
        width: channels of the convolutions.
        depth: 3x3 convolutions.
        kept: channels that the dense layers read.
        dense_depth: dense layers.
        padding_mode: of the convolutions; zeros as in the paper, or None for circular.

    The published sizes for images of 32 x 32 are S, M and L with 18.7 M, 62.8 M and 136 M
    parameters (L as in the paper); `kept` is 16, 32 and 48.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Prach, Lampert (2022), *Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz
        Networks*, arXiv:2208.03160.

    Example:
        >>> net = AOLNet(width=8, depth=1, kept=2, dense_depth=2).build((3, 32, 32), 10)
        >>> float(taut.lipschitz_bound(net, (3, 32, 32))) <= 1 + 1e-6
        True
    """

    kind = "aol"
    method = AOL
    configurations: ClassVar[Configurations] = {
        "s": {"kept": 16},
        "m": {"kept": 32},
        "l": {"kept": 48},
        "small": {"width": 48, "depth": 2, "kept": 4, "dense_depth": 3},
    }

    patch: int = 4
    width: int = 192
    depth: int = 12
    kept: int = 16
    dense_depth: int = 14
    padding_mode: str | None = "zeros"

    def __post_init__(self) -> None:
        check_fields(self, whole, "patch", "width", "depth", "kept", "dense_depth")

    def parts(self, make: Parts) -> Iterator[Part]:
        """Patches, convolutions, dense layers, and the logits."""
        yield from make.padded(self.patch)
        yield "patches", make.unshuffled(self.patch)
        yield "stem", nn.Sequential(make.conv(self.width, 1), MaxMin())
        layers = [
            layer for _ in range(self.depth) for layer in (make.conv(self.width, 3), MaxMin())
        ]
        yield "backbone", nn.Sequential(*layers)
        yield "neck", nn.Sequential(make.conv(self.width, 1), make.first(self.kept, "kept"))
        yield "flatten", make.flat()
        yield "dense", make.dense_stack(make.channels, self.dense_depth - 1)
        yield "last", make.linear(make.channels)
        yield "logits", make.first(make.classes)
