"""Changes of bounded size in each pixel."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.threats._ball import AbstractBall, ones_in
from taut.threats._cut import Cut

__all__ = ["Linf"]


@final
@dataclass(frozen=True, eq=False)
class Linf(AbstractBall):
    r"""Changes of at most r in each pixel, :math:`\|\delta\|_\infty \le r`.

    By equivalence of norms: d pixels that change by r each have an l2 norm of :math:`\sqrt d\, r`.
    The radius is that of l2 over :math:`\sqrt d`, or more if the first affine layers do not stretch
    such changes by as much. Nets that are trained for l2 have small radii in linf.

    Guarantee: no such change up to the radius changes the answer; at least the l2 radius over the
        root of d.

    Args:
        mask: as of :class:`Mask`; None for all pixels.

    Raises:
        ValueError: on certifying, if the mask does not fit the images.

    Example:
        >>> model, images = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), Linf())
        >>> found.proof
        'norm equivalence with l2: at least the l2 radius over the root of 3'
    """

    kind = "linf"
    norm = "linf"
    mask: Tensor | None = None

    def factors(self, shape: tuple[int, ...]) -> Tensor:
        """Ones, or the mask."""
        return ones_in(self.mask, shape)

    def proof(self, cut: Cut) -> str:
        """Equivalence of norms with l2."""
        count = int(self.factors(cut.certificate.input_shape).sum())
        return f"norm equivalence with l2: at least the l2 radius over the root of {count}"
