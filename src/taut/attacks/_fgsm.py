"""The fast gradient method in l2."""

from dataclasses import dataclass
from typing import ClassVar, final

from taut.attacks._base import AbstractAttack
from taut.attacks._geometry import clip, directions, per_image
from taut.attacks._objective import Batch, Labels, Objective, Radii


@final
@dataclass(frozen=True)
class FGSM(AbstractAttack):
    r"""FGSM: one step of length eps along the normalised gradient; a baseline.

    :math:`x' = x + \varepsilon\, g / \lVert g \rVert_2` with the gradient g of the margin: in l2
    the steepest step is along the gradient itself, not along its sign as in the original for
    :math:`\ell_\infty`. Clipping to the pixel box may leave the step shorter than eps.

    Reference:
        Goodfellow, Shlens, Szegedy (2015), *Explaining and Harnessing Adversarial Examples*,
        section 4; arXiv:1412.6572.

    Example:
        >>> FGSM()
        FGSM()
    """

    kind: ClassVar[str] = "fgsm"

    def perturb(self, objective: Objective, images: Batch, labels: Labels, radius: Radii) -> Batch:
        """Return the images after the one step."""
        _, gradient = objective.slope(images, labels)
        step = per_image(radius, images).to(images.dtype) * directions(gradient)
        return clip(images + step, images, radius)
