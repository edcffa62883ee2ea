"""LiResNet."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

from taut.models._base import Parametrization
from taut.models._net import Configurations
from taut.models._stem_net import AbstractStemNet
from taut.parametrizations import LiRes


@final
@dataclass(frozen=True, kw_only=True)
class LiResNet(AbstractStemNet):
    """LiResNet, second version: a deep backbone of linear residual layers.

    A strided stem, `depth` convolutions of 3x3 with MaxMin, a neck of orthogonal patches of 4x4
    pixels and a dense layer, `dense_depth` orthogonal dense layers, and the head. **It is not
    1-Lipschitz**: nothing keeps the norms of the backbone down but the loss, such as
    :class:`taut.losses.EMMA`, and certificates divide by the bound that is proven from its kernels.

    Guarantee: none for the backbone; 1-Lipschitz in l2 in front of it and behind it.

    Args:
        depth: convolutions of the backbone.
        width: their channels.
        stem_kernel: of the first convolution.
        stem_stride: of the first convolution.
        features: outputs of the neck and of the dense layers.
        dense_depth: dense layers behind the neck.
        centering: whether the mean over the batch is subtracted behind each convolution of the
            backbone (:class:`taut.nn.BatchCentering`).
        unit_rows: whether the rows of the last layer only have norm 1, certified pair by pair;
            if not, it is orthogonal.
        padding_mode: of the convolutions; zeros as in the paper, or None for circular.

    L12W512 has 82.9 M parameters for images of 32 x 32 and 10 classes, as published (83 M). Here
    the stem is divided by a proven bound of its norm, where the paper multiplies the Lipschitz
    constant by an estimate.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Hu et al. (2023), *Unlocking Deterministic Robustness Certification on ImageNet*,
        arXiv:2301.12549; Hu, Leino, Wang, Fredrikson (2024), *A Recipe for Improved Certifiable
        Robustness*, arXiv:2310.02513.

    Example:
        >>> net = LiResNet(depth=2, width=4, features=8, dense_depth=1).build((3, 8, 8), 10)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    kind = "liresnet"
    method = LiRes
    configurations: ClassVar[Configurations] = {
        "l12w512": {},
        "l12w588": {"width": 588, "stem_kernel": 14, "stem_stride": 14},
        "small": {"depth": 3, "width": 32, "features": 128, "dense_depth": 2},
    }

    def backbone_method(self, parametrization: Parametrization) -> Parametrization:
        """LiRes with the depth of the backbone."""
        known = parametrization is LiRes
        return partial(LiRes, depth=self.depth) if known else parametrization
