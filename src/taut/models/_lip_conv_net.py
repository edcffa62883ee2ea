"""The convolutional net of the papers on orthogonal convolutions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from taut._arguments import check_fields, switch, whole
from taut.models._net import AbstractNet, Configurations, Part, Parts, check_layer
from taut.nn import MaxMin


@final
@dataclass(frozen=True, kw_only=True)
class LipConvNet(AbstractNet):
    """LipConvNet-N: five stages of N / 5 layers with MaxMin after each, and a dense layer.

    The last layer of each stage reads blocks of 2x2 pixels as channels and has twice the channels
    of the stage; it is of size 1x1 in the last stage. SOC, LOT, BRO and ECO were first published in
    this net.

    Guarantee: 1-Lipschitz in l2; with unit rows up to the last layer, of which certificates bound
        each pair of rows.

    Args:
        depth: N, a multiple of 5.
        width: channels of the first stage.
        layer: the class of the layers: SOC2d, or another one that :class:`taut.models.SimpleNet`
            takes, such as Conv2d with any parametrization.
        unit_rows: whether the rows of the last layer only have norm 1, certified pair by pair;
            if not, it is orthogonal.
        padding_mode: of the layers; None for the default of each.

    LipConvNet-15 of SOC2d has 23.0 M parameters; 24.1 M are published, since the paper's last layer
    is a 1x1 convolution of 1024 x 1024 channels of which all outputs but the classes are dropped.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Singla, Feizi (2021), *Skew Orthogonal Convolutions*, arXiv:2105.11417; last layer with unit
        rows: Singla, Singla, Feizi (2022), arXiv:2108.04062.

    Example:
        >>> net = LipConvNet(depth=5, width=4).build((3, 32, 32), 10)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    kind = "lipconvnet"
    configurations: ClassVar[Configurations] = {
        **{str(depth): {"depth": depth} for depth in range(5, 45, 5)},
        "small": {"depth": 5, "width": 4},
    }

    depth: int = 15
    width: int = 32
    layer: str = "SOC2d"
    unit_rows: bool = False

    def __post_init__(self) -> None:
        check_layer(self.layer)
        check_fields(self, whole, "width", "depth")
        check_fields(self, switch, "unit_rows")
        if self.depth % 5:
            raise ValueError(f"`depth` must be a multiple of 5, the stages; got {self.depth}.")

    def parts(self, make: Parts) -> Iterator[Part]:
        """The stages, and the logits."""
        yield from make.padded(2**5)
        for stage in range(5):
            layers = self._stage(make, self.width * 2**stage, 1 if stage == 4 else 3)
            yield f"stage{stage + 1}", nn.Sequential(*layers)
        yield "flatten", make.flat()
        yield "head", make.head(self.unit_rows)

    def _stage(self, make: Parts, channels: int, last: int) -> Iterator[nn.Module]:
        for _ in range(self.depth // 5 - 1):
            yield make.layer(self.layer, channels, 3)
            yield MaxMin()
        yield make.unshuffled(2)
        yield make.layer(self.layer, 2 * channels, last)
        yield MaxMin()
