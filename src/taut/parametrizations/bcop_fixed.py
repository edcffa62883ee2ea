"""BCOP-Fixed: an orthogonal convolution that is drawn once and never trained."""

from typing import Any, final

import torch
from torch import Tensor

from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations.bcop import BCOP


@final
class BCOPFixed(AbstractParametrization):
    r"""The kernel of a fresh :class:`taut.BCOP`, frozen: what is gained by training it, in reverse.

    The kernel is a buffer, not a parameter: no optimiser sees it, distributed training has nothing
    unused to wait for, and a checkpoint holds it.

    Guarantee: that of :class:`taut.BCOP`, for the kernel as drawn: with circular padding all
        singular values of the operator are 1 (semi-orthogonal where the channel counts differ).
    Cost: nothing per read.

    Reference:
        Li et al. (2019), arXiv:1911.00937, table 7, "BCOP-Fixed".

    Example:
        >>> list(BCOPFixed(2, 2, (3, 3)).parameters())
        []
    """

    guarantee = "orthogonal"
    reference = "Li et al. 2019, arXiv:1911.00937, table 7"
    kernel: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        with torch.no_grad():
            drawn = BCOP(in_channels, out_channels, kernel_size, **options).weight()
        self.register_buffer("kernel", drawn.contiguous())

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """None: nothing is trained."""
        return {}

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        # A copy, so that what is written to a weight leaves the kernel alone.
        return self.kernel.clone()
