"""The smallest perturbation as a penalised minimum."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractSmallestAttack, check_counts, check_sizes
from taut.attacks._foolbox import run_foolbox
from taut.attacks._foreign import library, require
from taut.attacks._objective import Objective


@final
@dataclass(frozen=True, kw_only=True)
class CarliniWagner(AbstractSmallestAttack):
    r"""Minimise :math:`\lVert x' - x\rVert_2^2 + c \max(0, \text{margin})` over the pixel box.

    The box is kept by :math:`x' = (1 + \tanh w) / 2`, the weight c of the margin is searched for
    each image. Thorough and slow. Run by foolbox; the way back to the image is then halved to the
    boundary.

    Args:
        steps: of Adam, for each weight.
        step_size: of Adam, in w; large, for black and white pixels lie far out in w.
        searches: weights tried for each image.
        initial_const: the first weight. The best one is about the distance to the boundary, times
            sqrt(2), for a model that keeps the norm of its gradients; hence not the 1e-3 of the
            authors' code, which unconstrained models ask for.

    Raises:
        ValueError: if a number is not positive.
        ImportError: if foolbox is not installed.

    Reference:
        Carlini, Wagner (2017), *Towards Evaluating the Robustness of Neural Networks*, section
        VI.A; arXiv:1608.04644.

    Example:
        >>> CarliniWagner(steps=100).searches
        6
    """

    steps: int = 500
    step_size: float = 0.05
    searches: int = 6
    initial_const: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would happen."""
        check_counts(steps=self.steps, searches=self.searches)
        check_sizes(step_size=self.step_size, initial_const=self.initial_const)
        require("foolbox")

    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return the nearest misclassified point met, at whatever distance."""
        method = library("foolbox").attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.searches,
            steps=self.steps,
            stepsize=self.step_size,
            initial_const=self.initial_const,
        )
        return run_foolbox(method, objective, images, labels)
