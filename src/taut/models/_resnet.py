"""A residual net of orthogonal convolutions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from taut._arguments import check_fields, each, switch, whole
from taut.models._net import AbstractNet, Configurations, Part, Parts
from taut.nn import ConvexResidual, MaxMin, ScaledAdaptiveAvgPool2d


@final
@dataclass(frozen=True, kw_only=True)
class ResNet(AbstractNet):
    """A ResNet of orthogonal convolutions, with learnable convex sums for its shortcuts.

    A stem, stages of blocks `a x + (1 - a) f(x)` with two 3x3 convolutions and MaxMin, scaled
    averages, and the head. From the second stage on a strided convolution to twice the channels
    takes the place of the first block.

    Guarantee: 1-Lipschitz in l2 with `unit_rows=False`. With unit rows, the default, that holds up
        to the last layer; certificates bound each pair of its rows.

    Args:
        blocks: of each stage.
        width: channels of the first stage.
        stem_kernel: of the first convolution.
        stem_stride: of the first convolution.
        stem_pool: size of the windows of a maximum behind it; 1 for none.
        unit_rows: whether the rows of the last layer only have norm 1, certified pair by pair;
            if not, it is orthogonal.
        padding_mode: of the convolutions; None for circular, where they are orthogonal.

    `resnet-34` is the layout of the authors' code for ImageNet. No number of parameters is
    published: its kernels have 18.0 M numbers, BCOP has 6.26 M, and the last layer 0.51 M for 1000
    classes.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Boissin et al. (2025), *An Adaptive Orthogonal Convolution Scheme for Efficient and Flexible
        CNN Architectures*, arXiv:2501.07930.

    Example:
        >>> net = ResNet(blocks=(1, 2), width=4).build((3, 8, 8), 10)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    kind = "resnet"
    configurations: ClassVar[Configurations] = {
        "18": {"blocks": (2, 2, 2, 2)},
        "34": {"stem_kernel": 7, "stem_stride": 2, "stem_pool": 2},
        "small": {"blocks": (1, 2, 2), "width": 16},
    }

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: int = 1
    unit_rows: bool = True

    def __post_init__(self) -> None:
        check_fields(self, whole, "width", "stem_kernel", "stem_stride", "stem_pool")
        check_fields(self, switch, "unit_rows")
        check_fields(self, each, "blocks", check=whole)
        if not self.blocks:
            raise ValueError(f"`blocks` must be positive integers; got {self.blocks}.")

    def parts(self, make: Parts) -> Iterator[Part]:
        """Stem, stages, the pool, and the logits."""
        stem = make.conv(self.width, self.stem_kernel, self.stem_stride)
        yield "stem", nn.Sequential(stem, MaxMin())
        if self.stem_pool > 1:
            yield "stem_pool", make.pooled(nn.MaxPool2d(self.stem_pool), self.stem_pool)
        for stage, count in enumerate(self.blocks):
            layers = [make.conv(self.width * 2**stage, 3, 2)] if stage else []
            layers += [self._block(make) for _ in range(count - len(layers))]
            yield f"stage{stage + 1}", nn.Sequential(*layers)
        yield "pool", make.pooled(ScaledAdaptiveAvgPool2d(1))
        yield "flatten", make.flat()
        yield "head", make.head(self.unit_rows)

    def _block(self, make: Parts) -> nn.Module:
        layers = [make.conv(make.channels, 3), MaxMin(), make.conv(make.channels, 3), MaxMin()]
        return ConvexResidual(nn.Sequential(*layers), **make.factory)
