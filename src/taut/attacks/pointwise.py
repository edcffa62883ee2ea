"""Pixels put back one by one, by answers only."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractSmallestAttack, check_counts
from taut.attacks._foolbox import run_foolbox, run_from, starting_points
from taut.attacks._foreign import library, require
from taut.attacks._geometry import per_image
from taut.attacks._objective import Objective


@final
@dataclass(frozen=True, kw_only=True)
class PointwiseAttack(AbstractSmallestAttack):
    r"""Add salt and pepper until the model errs, then put each pixel back as far as it goes.

    It sees the predicted class alone, and looks for few changed pixels rather than for a small
    l2 norm: in l2 it is weak, and shows little but that nothing trivial works. Run by foolbox; the
    way back to the image is halved to the boundary.

    Where salt and pepper change no answer, it starts where `BoundaryAttack` does.

    Args:
        steps: amounts of salt and pepper tried.
        seed: of the noise and of the order of the pixels; equal in every call.

    Raises:
        ValueError: if `steps` < 1.
        ImportError: if foolbox is not installed.

    Reference:
        Schott, Rauber, Bethge, Brendel (2019), *Towards the first adversarially robust neural
        network model on MNIST*, section 5; arXiv:1805.09190.

    Example:
        >>> PointwiseAttack()
        PointwiseAttack(steps=1000, seed=0)
    """

    steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would happen."""
        check_counts(steps=self.steps)
        require("foolbox")

    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return what is left of the noise; the image itself where no start was found."""
        noise = library("foolbox").attacks.SaltAndPepperNoiseAttack(steps=self.steps)
        points = run_foolbox(noise, objective, images, labels, self.seed)
        others, found = starting_points(objective, images, labels, self.seed)
        with torch.no_grad():
            salted = objective.margin(points, labels) > 0
        starts = torch.where(per_image(salted, images), points, others), found | salted
        method = library("foolbox").attacks.PointwiseAttack()
        return run_from(method, objective, images, labels, self.seed, starts)
