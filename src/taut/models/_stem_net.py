"""What LiResNet and BRONet share: stem, backbone, neck, dense layers and head."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from torch import nn

from taut._arguments import check_fields, switch, whole
from taut.models._base import Parametrization
from taut.models._net import AbstractNet, Part, Parts
from taut.nn import BatchCentering, MaxMin
from taut.parametrizations import BCOP, CPL, Orthogonal

_PATCH = 4


@dataclass(frozen=True, kw_only=True)
class AbstractStemNet(AbstractNet):
    """A strided stem, a backbone of one width, patches to features, and dense layers."""

    matrices = Orthogonal

    depth: int = 12
    width: int = 512
    stem_kernel: int = 5
    stem_stride: int = 2
    features: int = 2048
    dense_depth: int = 8
    centering: bool = True
    unit_rows: bool = True
    padding_mode: str | None = "zeros"

    def __post_init__(self) -> None:
        sizes = ("depth", "width", "stem_kernel", "stem_stride", "features", "dense_depth")
        check_fields(self, whole, *sizes)
        check_fields(self, switch, "centering", "unit_rows")

    @abstractmethod
    def backbone_method(self, parametrization: Parametrization) -> Parametrization:
        """The parametrization of the layers of the backbone, with its options."""

    @final
    def parts(self, make: Parts) -> Iterator[Part]:
        """Stem, backbone, neck, dense layers and logits."""
        yield from make.padded(self.stem_stride * _PATCH)
        stem = make.conv(self.width, self.stem_kernel, self.stem_stride, CPL)
        yield "stem", nn.Sequential(stem, MaxMin())
        yield "backbone", nn.Sequential(*self._backbone(make))
        patches = make.conv(self.width, _PATCH, _PATCH, BCOP, bias=False)
        yield "neck", nn.Sequential(patches, make.flat(), make.linear(self.features), MaxMin())
        yield "dense", make.dense_stack(self.features, self.dense_depth)
        yield "head", make.head(self.unit_rows)

    def _backbone(self, make: Parts) -> Iterator[nn.Module]:
        method = self.backbone_method(make.parametrization)
        for _ in range(self.depth):
            yield make.conv(self.width, 3, 1, method, bias=not self.centering)
            if self.centering:
                yield BatchCentering(self.width, **make.factory)
            yield MaxMin()
