"""Changes of a norm with a weight for each pixel."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.certification import checked_factors
from taut.threats._ball import AbstractBall
from taut.threats._cut import Cut

__all__ = ["WeightedL2"]


@final
@dataclass(frozen=True, eq=False)
class WeightedL2(AbstractBall):
    r"""Changes in an ellipsoid, :math:`\sqrt{\sum_i (\delta_i / w_i)^2} \le r`.

    A pixel with twice the weight may change twice as much.

    Guarantee: no change in the ellipsoid of the radius changes the answer. At least the radius of
        `L2` over the largest weight.

    Args:
        weights: positive numbers, of the shape of one image or broadcast to it. For pixels that
            stay as they are, see :class:`Mask`.

    Raises:
        ValueError: on certifying, if the weights do not fit the images, or one is not positive.

    Reference:
        `taut.predict` takes weights, too, and proves them in a form that files hold.

    Example:
        >>> model, images = torch.nn.Linear(3, 2), torch.rand(4, 3)
        >>> threat = WeightedL2(torch.tensor([1.0, 0.5, 0.25]))
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), threat)
        >>> found.radius.shape
        torch.Size([4])
    """

    kind = "weighted-l2"
    norm = "l2"
    weights: Tensor

    def factors(self, shape: tuple[int, ...]) -> Tensor:
        """The weights."""
        factors = checked_factors("weights", self.weights, shape)
        if not (factors > 0).all():
            raise ValueError(
                f"`weights` must be positive; got {float(factors.min()):g}. See Mask for pixels "
                "that stay as they are."
            )
        return factors.clone()

    def proof(self, cut: Cut) -> str:
        """The Lipschitz bound, with the weights."""
        return "the Lipschitz bound in l2 with a weight for each pixel"
