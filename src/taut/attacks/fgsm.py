"""The fast gradient method in l2."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractAttack
from taut.attacks._geometry import clip, directions, per_image
from taut.attacks._objective import Objective


@final
@dataclass(frozen=True)
class FGSM(AbstractAttack):
    r"""One step of length eps along the normalised gradient of the margin.

    :math:`x' = x + \varepsilon\, g / \lVert g \rVert_2`: in l2 the steepest step is along the
    gradient itself, not along its sign as in the original for :math:`\ell_\infty`. Clipping to the
    pixel box may leave the step shorter than eps.

    Reference:
        Goodfellow, Shlens, Szegedy (2015), *Explaining and Harnessing Adversarial Examples*,
        section 4; arXiv:1412.6572.

    Example:
        >>> FGSM()
        FGSM()
    """

    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return the images after the one step."""
        _, gradient = objective.slope(images, labels)
        step = per_image(radius, images).to(images.dtype) * directions(gradient)
        return clip(images + step, images, radius)
