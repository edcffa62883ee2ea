"""Invertible downsampling."""

from typing import final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import whole


@final
class InvertibleDownsample2d(nn.Module):
    r"""Move each `factor x factor` block of pixels into channels: a permutation of the input.

    Guarantee: an isometry of l2; the Jacobian is a permutation.

    Inputs are `(batch, c, h, w)` with `factor` dividing h and w; outputs `(batch, c * factor^2,
    h / factor, w / factor)`, in the order of `torch.nn.PixelUnshuffle`.

    Args:
        factor: size of a block.

    Raises:
        ValueError: if `factor` is not a positive integer, or (forward) does not divide h and w.

    Reference:
        Jacobsen et al. (2018), *i-RevNet*, section 3.1; arXiv:1802.07088.

    Example:
        >>> InvertibleDownsample2d(2)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 12, 4, 4])
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = whole("factor", factor)

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Rearrange the pixels."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            self._check(input)
        return F.pixel_unshuffle(input, self.factor)

    def _check(self, input: Tensor) -> None:
        sizes = () if isinstance(input, fx.Proxy) else tuple(input.shape[-2:])
        if any(size % self.factor for size in sizes):
            raise ValueError(
                f"`factor` must divide the height and width of the input; "
                f"got factor={self.factor}, size {sizes}."
            )

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"
