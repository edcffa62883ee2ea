"""Absolute values of some of the channels."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taut.nn.activations._along import along


@final
class Abs(nn.Module):
    r"""Absolute values of the first `round(beta * c)` of c channels; the others do not change.

    The cheapest activation that preserves gradient norms. With `beta=0.5` it is :class:`MaxMin` in
    another orthonormal basis: in :math:`(a \pm b) / \sqrt 2`, :math:`(\max, \min)` of a pair is
    :math:`(a + b, |a - b|) / \sqrt 2`.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is diagonal with entries
        1 and -1, at 0 too. Nothing is rounded.
    Cost: one elementwise pass: `torch.nn.functional.prelu` with slopes 1 and -1.

    Inputs are `(batch, channels, *spatial)`, or have their channels along `dim`.

    Args:
        beta: share of the channels, from 0 to 1; a half is rounded to the even number.
        dim: the axis of the channels; -1 for tokens `(batch, tokens, features)`, -3 for an image
            without a batch.

    Raises:
        ValueError: if `beta` is not between 0 and 1.

    Reference:
        beta-Abs, as LipNeXt uses it; absolute values by Anil et al. (2019), *Sorting out Lipschitz
        function approximation*, arXiv:1811.05381.

    Example:
        >>> Abs(0.5)(torch.tensor([[-1.0, 2.0, -3.0, 4.0]]))
        tensor([[ 1.,  2., -3.,  4.]])
    """

    def __init__(self, beta: float = 1.0, dim: int = 1) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ValueError(f"`beta` must be a number from 0 to 1; got {beta}.")
        self.beta = float(beta)
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation along its dimension."""
        channels = input.shape[self.dim]
        places = torch.arange(channels, device=input.device)
        slopes = 1 - 2 * (places < round(self.beta * channels)).to(input.dtype)
        return along(F.prelu, input, self.dim, slopes)

    def extra_repr(self) -> str:
        """The share, and the axis where it is not the first behind the batch."""
        return f"beta={self.beta}" + ("" if self.dim == 1 else f", dim={self.dim}")
