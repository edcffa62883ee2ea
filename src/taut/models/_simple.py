"""The architecture of the comparison of 1-Lipschitz layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from taut._arguments import check_fields, whole
from taut.models._net import AbstractNet, Configurations, Part, Parts, check_layer
from taut.nn import MaxMin


@final
@dataclass(frozen=True, kw_only=True)
class SimpleNet(AbstractNet):
    """The network of "1-Lipschitz Layers Compared" (Prach et al.): all layers are square.

    Zero channels, a 1x1 layer, `blocks` times (`depth` layers, the first half of the channels,
    2x2 pixels as channels), a dense layer as wide as its input, and the first features as logits.
    MaxMin follows each layer but the last. Channels double from block to block; the last block has
    1x1 kernels. It takes any layer: `taut.models.layers()` lists them.

    Guarantee: that of the layers: 1-Lipschitz in l2 with every method that promises so much.

    Args:
        width: channels of the first block.
        blocks: how many; each halves the size of the image.
        depth: layers of a block.
        kernel_size: of all blocks but the last.
        layer: the class of the layers: Conv2d, PotentialResidual2d, Sandwich2d, ShiftMix2d, SOC2d.
            The last layer is one of them, of size 1x1, or for Conv2d and ShiftMix2d a dense layer.
        padding_mode: of the layers; None for the default of each.

    Plain kernels have 1.57 M, 6.28 M, 25.1 M and 100 M numbers for widths of 16, 32, 64 and 128
    (XS, S, M, L), which are the sizes that the paper states. Parametrizations have their own: AOL
    as many, BCOP one third for kernels of 3x3: 0.92 M, 3.67 M, 14.7 M and 58.7 M in all. For images
    of 64 x 64 the paper has six blocks and half the width.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Prach, Brau, Buttazzo, Lampert (2024), *1-Lipschitz Layers Compared: Memory, Speed, and
        Certifiable Robustness*, arXiv:2311.16833.

    Example:
        >>> net = SimpleNet(width=4, depth=1).build((3, 32, 32), 10, parametrization=taut.AOL)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    kind = "simple"
    configurations: ClassVar[Configurations] = {
        "xs": {"width": 16},
        "s": {"width": 32},
        "m": {"width": 64},
        "l": {"width": 128},
        "tiny-xs": {"width": 8, "blocks": 6},
        "tiny-s": {"width": 16, "blocks": 6},
        "tiny-m": {"width": 32, "blocks": 6},
        "tiny-l": {"width": 64, "blocks": 6},
        "small": {"width": 8, "depth": 2},
    }

    width: int = 16
    blocks: int = 5
    depth: int = 5
    kernel_size: int = 3
    layer: str = "Conv2d"

    def __post_init__(self) -> None:
        check_layer(self.layer)
        check_fields(self, whole, "width", "blocks", "depth", "kernel_size")
        if self.width % 2:
            raise ValueError(f"`width` must be even, as blocks halve it; got {self.width}.")

    def parts(self, make: Parts) -> Iterator[Part]:
        """Zero channels, a 1x1 layer, the blocks, and the logits."""
        yield from make.padded(2**self.blocks)
        yield "widen", make.widened(self.width)
        yield "stem", nn.Sequential(make.layer(self.layer, self.width, 1), MaxMin())
        for block in range(1, self.blocks + 1):
            size = self.kernel_size if block < self.blocks else 1
            yield f"block{block}", nn.Sequential(*self._block(make, size))
        if make.shape[1:] != (1, 1):
            yield "pool", make.pooled(nn.AdaptiveMaxPool2d(1))
        dense = self.layer in ("Conv2d", "ShiftMix2d")
        if not dense:
            yield "dense", make.layer(self.layer, make.channels, 1)
        yield "flatten", make.flat()
        if dense:
            yield "dense", make.linear(make.channels)
        yield "logits", make.first(make.classes)

    def _block(self, make: Parts, size: int) -> Iterator[nn.Module]:
        for _ in range(self.depth):
            yield make.layer(self.layer, make.channels, size)
            yield MaxMin()
        yield make.first(make.channels // 2)
        yield make.unshuffled(2)
