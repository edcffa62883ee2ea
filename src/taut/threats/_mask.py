"""Changes of some of the pixels."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.threats._ball import AbstractBall, ones_in
from taut.threats._cut import Cut

__all__ = ["Mask"]


@final
@dataclass(frozen=True, eq=False)
class Mask(AbstractBall):
    r"""Changes of the pixels of a mask alone, of bounded l2 norm: a patch, a watermark, a sensor.

    The first affine layers count with their norm on these pixels, which may be much smaller than
    on whole images.

    Guarantee: no change of pixels in the mask of an l2 norm up to the radius changes the answer.
        At least the radius for changes of all pixels; infinite if the mask is False everywhere.

    Args:
        mask: True, or 1, for the pixels that may change; of the shape of one image, or broadcast
            to it.

    Raises:
        ValueError: on certifying, if the mask does not fit the images, or has other numbers.

    Example:
        >>> model, images = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> first = Mask(torch.tensor([True, False, False]))
        >>> one = taut.threats.certify(model, images, torch.zeros(4).long(), first)
        >>> every = taut.threats.certify(model, images, torch.zeros(4).long(), taut.threats.L2())
        >>> bool((one.radius >= every.radius).all())
        True
    """

    kind = "mask"
    norm = "l2"
    mask: Tensor

    def factors(self, shape: tuple[int, ...]) -> Tensor:
        """The mask."""
        return ones_in(self.mask, shape)

    def proof(self, cut: Cut) -> str:
        """The Lipschitz bound, on the pixels of the mask."""
        return "the Lipschitz bound in l2 on the pixels of the mask"
