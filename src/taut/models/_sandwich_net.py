"""The net of sandwich layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import nn

from taut._arguments import check_fields, switch, whole
from taut.models._net import AbstractNet, Configurations, Part, Parts
from taut.nn import Sandwich2d


@final
@dataclass(frozen=True, kw_only=True)
class SandwichNet(AbstractNet):
    """The Sandwich network: pairs of sandwich layers on the image, then dense ones.

    Each stage has a layer of 3x3 kernels, and one of 2x2 blocks that halves the size of the image;
    channels double from stage to stage. Layers with `features`, `features` and half as many outputs
    follow, and the head. Layers have as many hidden channels as outputs.

    Guarantee: 1-Lipschitz in l2 with `unit_rows=False`. With unit rows, the default, that holds up
        to the last layer; certificates bound each pair of its rows.

    Args:
        width: channels of the first stage.
        stages: how many; the paper has 3 for images of 32 x 32 and 4 for those of 64 x 64.
        features: outputs of the first layers on all features, at least 2.
        unit_rows: whether the rows of the last layer only have norm 1, certified pair by pair;
            if not, it is orthogonal.
        padding_mode: of the layers; None for circular, as in the paper.

    With raw kernels as large as the kernels, which AOL has, that is 25.8 M parameters for 100
    classes of 32 x 32 images (26 M are published) and 39.1 M for 200 of 64 x 64 (39 M). The default
    BCOP has 25.2 M and 36.5 M. The paper takes a Cayley transform at each frequency, which ties a
    net to the size of its images.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Wang, Manchester (2023), *Direct Parameterization of Lipschitz-Bounded Deep Networks*,
        arXiv:2301.11526.

    Example:
        >>> net = SandwichNet(width=4, stages=1, features=8).build((3, 8, 8), 10)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    kind = "sandwich"
    configurations: ClassVar[Configurations] = {
        "3": {},
        "4": {"stages": 4},
        "small": {"width": 8, "features": 128},
    }

    width: int = 64
    stages: int = 3
    features: int = 2048
    unit_rows: bool = True

    def __post_init__(self) -> None:
        check_fields(self, whole, "width", "stages")
        check_fields(self, whole, "features", least=2)
        check_fields(self, switch, "unit_rows")

    def parts(self, make: Parts) -> Iterator[Part]:
        """The stages, the layers on all features, and the logits."""
        yield from make.padded(2**self.stages)
        for stage in range(self.stages):
            channels = self.width * 2**stage
            layers = (self._layer(make, channels, 3), self._layer(make, channels, 1, 2))
            yield f"stage{stage + 1}", nn.Sequential(*layers)
        yield "column", make.column()
        widths = (self.features, self.features, self.features // 2)
        yield "dense", nn.Sequential(*[self._layer(make, width, 1) for width in widths])
        yield "flatten", make.flat()
        yield "head", make.head(self.unit_rows)

    def _layer(self, make: Parts, channels: int, size: int, stride: int = 1) -> nn.Module:
        between = make.strided(channels, stride)
        options: dict[str, Any] = {"parametrization": make.parametrization}
        options |= {"hidden_channels": channels, **make.padding, **make.factory}
        return Sandwich2d(*between, size, stride, **options)
