"""The net of SLL."""

from dataclasses import dataclass
from typing import final

from taut.models._residual_net import AbstractResidualNet
from taut.parametrizations import SLL


@final
@dataclass(frozen=True, kw_only=True)
class SLLNet(AbstractResidualNet):
    """The SLL network: residual layers on the image, average pooling, dense residual layers.

    The image gets zero channels up to `width`; `depth` layers of 3x3 kernels with `hidden` hidden
    channels follow, averages of 4x4 pixels times 4, and `dense_depth` layers on all features with
    `dense_hidden` hidden ones.

    Guarantee: 1-Lipschitz in l2 with `unit_rows=False`. With unit rows, the default, that holds up
        to the last layer; certificates bound each pair of its rows.

    Args:
        width: channels.
        depth: residual layers on the image.
        hidden: hidden channels of each.
        dense_depth: residual layers on the features.
        dense_hidden: hidden features of each.
        unit_rows: whether the rows of the last layer only have norm 1, certified pair by pair;
            if not, it has the parametrization's form of a dense layer.
        padding_mode: of the layers; zeros as in the paper, or None for circular.

    S, M, L and XL have 41.4 M, 78.8 M, 118 M and 236 M parameters for images of 32 x 32; 236 M are
    published of XL. The parametrization may be any: :class:`taut.BCOP` makes each layer a
    reflection, which keeps gradients, as long as there are no more hidden channels than inputs.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Araujo et al. (2023), *A Unified Algebraic Perspective on Lipschitz Neural Networks*,
        arXiv:2303.03169.

    Example:
        >>> net = SLLNet(width=4, depth=1, dense_depth=1, dense_hidden=8).build((3, 8, 8), 10)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    kind = "sll"
    method = SLL
