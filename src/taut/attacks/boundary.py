"""A walk along the decision boundary that asks for answers only."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractSmallestAttack, check_counts
from taut.attacks._foolbox import run_from, starting_points
from taut.attacks._foreign import library, require
from taut.attacks._objective import Objective


@final
@dataclass(frozen=True, kw_only=True)
class BoundaryAttack(AbstractSmallestAttack):
    r"""Wander along the boundary at random, keeping what is misclassified and nearer.

    It sees the predicted class alone: neither gradients nor logits, so that nothing about the model
    can mask them. It needs thousands of steps. Run by foolbox; the way back to the image is halved
    to the boundary.

    Departure from the paper: each walk starts on the way to the nearest misclassified one of some
    noise images and of the other images of the batch, not from noise alone, which often looks like
    one class to a model. The images of a batch share their random directions.

    Args:
        steps: of the walk.
        seed: of the walk; equal in every call.

    Raises:
        ValueError: if `steps` < 1.
        ImportError: if foolbox is not installed.

    Reference:
        Brendel, Rauber, Bethge (2018), *Decision-Based Adversarial Attacks: Reliable Attacks
        Against Black-Box Machine Learning Models*, algorithm 1; arXiv:1712.04248.

    Example:
        >>> BoundaryAttack(steps=1000)
        BoundaryAttack(steps=1000, seed=0)
    """

    steps: int = 25000
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
        """Return the nearest point of the walk; the image itself where no start was found."""
        method = library("foolbox").attacks.BoundaryAttack(steps=self.steps)
        starts = starting_points(objective, images, labels, self.seed)
        return run_from(method, objective, images, labels, self.seed, starts)
