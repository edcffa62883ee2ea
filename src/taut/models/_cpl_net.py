"""The net of convex potential layers."""

from dataclasses import dataclass
from typing import final

from taut.models._residual_net import AbstractResidualNet
from taut.parametrizations import CPL


@final
@dataclass(frozen=True, kw_only=True)
class CPLNet(AbstractResidualNet):
    """The network of convex potential layers: that of SLL with kernels of CPL.

    Guarantee: 1-Lipschitz in l2 with `unit_rows=False`. With unit rows, the default, that holds up
        to the last layer; certificates bound each pair of its rows.

    Settings and sizes are those of :class:`taut.models.SLLNet`; 236 M parameters are published of
    XL. The layers of the published code divide by an estimate of the norm, ours by a proven bound.

    Reference:
        Meunier, Delattre, Araujo, Allauzen (2022), *A Dynamical System Perspective for Lipschitz
        Neural Networks*, arXiv:2110.12690.

    Example:
        >>> net = CPLNet(width=4, depth=1, dense_depth=1, dense_hidden=8).build((3, 8, 8), 10)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    kind = "cpl"
    method = CPL
