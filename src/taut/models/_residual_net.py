"""What the nets of potential residual layers share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from taut._arguments import check_fields, switch, whole
from taut.models._net import AbstractNet, Configurations, Part, Parts
from taut.nn import PotentialResidual2d, ScaledAvgPool2d


@dataclass(frozen=True, kw_only=True)
class AbstractResidualNet(AbstractNet):
    """Zero channels, convolutional residual layers, an average, dense residual layers, a head."""

    configurations: ClassVar[Configurations] = {
        "s": {},
        "m": {"width": 60, "depth": 30, "dense_depth": 10},
        "l": {"width": 90, "depth": 50, "dense_depth": 10},
        "xl": {"width": 120, "depth": 70, "dense_depth": 15},
        "small": {"width": 12, "depth": 4, "dense_depth": 2, "dense_hidden": 128},
    }

    width: int = 45
    depth: int = 20
    hidden: int = 5
    dense_depth: int = 7
    dense_hidden: int = 2048
    unit_rows: bool = True
    padding_mode: str | None = "zeros"

    def __post_init__(self) -> None:
        check_fields(self, whole, "width", "depth", "hidden", "dense_depth", "dense_hidden")
        check_fields(self, switch, "unit_rows")

    @final
    def parts(self, make: Parts) -> Iterator[Part]:
        """The layers on images, those on all pixels as one, and the logits."""
        yield from make.padded(4)
        yield "widen", make.widened(self.width)
        yield "backbone", self._layers(make, self.depth, self.hidden, 3)
        yield "pool", make.pooled(ScaledAvgPool2d(4), 4)
        yield "column", make.column()
        yield "dense", self._layers(make, self.dense_depth, self.dense_hidden, 1)
        yield "flatten", make.flat()
        yield "head", make.head(self.unit_rows)

    def _layers(self, make: Parts, depth: int, hidden: int, size: int) -> nn.Module:
        options = {"parametrization": make.parametrization, **make.padding, **make.factory}
        sizes = (make.channels, hidden, size)
        return nn.Sequential(*[PotentialResidual2d(*sizes, **options) for _ in range(depth)])
