"""Changes of bounded l2 norm."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.threats._ball import AbstractBall, ones_in
from taut.threats._cut import Cut

__all__ = ["L2"]


@final
@dataclass(frozen=True)
class L2(AbstractBall):
    r"""Changes of bounded l2 norm, :math:`\|\delta\|_2 \le r`: those of `taut.certify`.

    Guarantee: the radii of `taut.certify`, or larger ones where the first layers are affine as a
        whole.

    Example:
        >>> model, images = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), L2())
        >>> found.radius.shape
        torch.Size([4])
    """

    kind = "l2"
    norm = "l2"

    def factors(self, shape: tuple[int, ...]) -> Tensor:
        """Ones."""
        return ones_in(None, shape)

    def proof(self, cut: Cut) -> str:
        """The Lipschitz bound."""
        return "the Lipschitz bound in l2"
