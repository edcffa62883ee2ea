"""The nearest boundary of the linearised model, again and again."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractSmallestAttack, check_counts
from taut.attacks._foolbox import run_foolbox
from taut.attacks._foreign import library, require
from taut.attacks._objective import Objective


@final
@dataclass(frozen=True, kw_only=True)
class DeepFool(AbstractSmallestAttack):
    r"""Step to the nearest boundary of the linearised logits until the model errs.

    Fast, and exact on linear models; where the model is curved it stops at the first error, not at
    the nearest one. Run by foolbox; the way back to the image is then halved to the boundary, so
    that overshooting costs nothing.

    Args:
        steps: linearisations at most.
        overshoot: share of each step by which it is lengthened.

    Raises:
        ValueError: if `steps` < 1 or `overshoot` < 0.
        ImportError: if foolbox is not installed.

    Reference:
        Moosavi-Dezfooli, Fawzi, Frossard (2016), *DeepFool: a simple and accurate method to fool
        deep neural networks*, algorithm 2; arXiv:1511.04599.

    Example:
        >>> DeepFool(steps=20)
        DeepFool(steps=20, overshoot=0.02)
    """

    steps: int = 50
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would happen."""
        check_counts(steps=self.steps)
        if not self.overshoot >= 0:
            raise ValueError(f"`overshoot` must not be negative; got overshoot={self.overshoot}.")
        require("foolbox")

    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return the first misclassified point met, at whatever distance."""
        method = library("foolbox").attacks.L2DeepFoolAttack(
            steps=self.steps, overshoot=self.overshoot
        )
        return run_foolbox(method, objective, images, labels)
