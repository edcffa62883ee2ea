"""BRONet."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

from taut._arguments import check_fields, whole
from taut.models._base import Parametrization
from taut.models._net import Configurations
from taut.models._stem_net import AbstractStemNet
from taut.parametrizations import BRO


@final
@dataclass(frozen=True, kw_only=True)
class BRONet(AbstractStemNet):
    """BRONet: LiResNet with a backbone of block reflectors.

    Settings are those of :class:`taut.models.LiResNet`, and `rank`.

    Guarantee: 1-Lipschitz in l2 with `unit_rows=False`. With unit rows, the default, that holds up
        to the last layer; certificates bound each pair of its rows.

    Args:
        rank: columns of the reflectors; 0 for half of the width.

    L12W512 has 68.8 M parameters for images of 32 x 32 and 10 classes, as published (68 M). L6W512
    has 90 M for Tiny-ImageNet, where 75 M are published: the four dense layers are orthogonal
    matrices here, and reflectors of rank 256 in the paper.

    :class:`taut.BCOP` in place of BRO gives a backbone of finite kernels, for images of any size.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Lai et al. (2025), *Enhancing Certified Robustness via Block Reflector Orthogonal Layers and
        Logit Annealing Loss*, arXiv:2505.15174.

    Example:
        >>> net = BRONet(depth=2, width=4, features=8, dense_depth=1).build((3, 8, 8), 10)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    kind = "bronet"
    method = BRO
    configurations: ClassVar[Configurations] = {
        "l12w512": {},
        "l6w512": {"depth": 6, "rank": 64, "dense_depth": 4},
        "small": {"depth": 3, "width": 16, "features": 128, "dense_depth": 2},
    }

    rank: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, whole, "rank", least=0)

    def backbone_method(self, parametrization: Parametrization) -> Parametrization:
        """Block reflectors of the given rank."""
        ranked = parametrization is BRO and self.rank
        return partial(BRO, rank=self.rank) if ranked else parametrization
