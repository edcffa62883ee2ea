"""Changes of bounded sum."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.threats._ball import AbstractBall, ones_in
from taut.threats._cut import Cut

__all__ = ["L1"]


@final
@dataclass(frozen=True, eq=False)
class L1(AbstractBall):
    r"""Changes whose absolute values add up to at most r, :math:`\|\delta\|_1 \le r`.

    By equivalence of norms: :math:`\|\delta\|_2 \le \|\delta\|_1`, so that the radius is that of
    l2, or more if the first affine layers stretch no single pixel by as much as some image.

    Guarantee: no such change up to the radius changes the answer; at least the l2 radius.

    Args:
        mask: as of :class:`Mask`; None for all pixels.

    Raises:
        ValueError: on certifying, if the mask does not fit the images.

    Example:
        >>> model, images = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), L1())
        >>> found.proof
        'norm equivalence with l2: at least the l2 radius'
    """

    kind = "l1"
    norm = "l1"
    mask: Tensor | None = None

    def factors(self, shape: tuple[int, ...]) -> Tensor:
        """Ones, or the mask."""
        return ones_in(self.mask, shape)

    def proof(self, cut: Cut) -> str:
        """Equivalence of norms with l2."""
        return "norm equivalence with l2: at least the l2 radius"
