"""All channels in ascending order."""

from typing import final

import torch
from torch import Tensor, nn

from taut._arguments import axis
from taut.nn.activations._along import check_axis


@final
class FullSort(nn.Module):
    r"""Sort all channels in ascending order: :class:`GroupSort` with one group.

    The widest groups approximate best (Anil et al., 2019), and cost most.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is a permutation, at
        ties too. Nothing is rounded.
    Cost: one sort of all channels at each position.

    Args:
        dim: the axis of the channels, of an input of any shape.

    Reference:
        Anil et al. (2019), *Sorting out Lipschitz function approximation*, arXiv:1811.05381.

    Example:
        >>> FullSort()(torch.tensor([[3.0, 1.0, 2.0]]))
        tensor([[1., 2., 3.]])
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = axis("dim", dim)

    def forward(self, input: Tensor) -> Tensor:
        """Sort along the axis."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            check_axis(input, self.dim)
        return input.sort(dim=self.dim)[0]

    def extra_repr(self) -> str:
        """The axis, where it is not the first behind the batch."""
        return "" if self.dim == 1 else f"dim={self.dim}"
