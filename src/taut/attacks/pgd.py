"""Projected gradient ascent in l2."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractAttack, check_counts, check_sizes
from taut.attacks._geometry import clip, directions, per_image
from taut.attacks._objective import Objective


@final
@dataclass(frozen=True, kw_only=True)
class PGD(AbstractAttack):
    r"""Steps of fixed length along the normalised gradient of the margin, from a random start.

    After each step the point is clipped to the ball and the box. An image that is broken is left
    alone from then on, so the cost falls as the attack succeeds.

    The default walk is ten radii long. On the sphere the angle between point and gradient shrinks
    like :math:`e^{-\text{length}/\varepsilon}`: the common 2.5 radii end 9 degrees, or 1.3 % of
    eps, short of the best point of a linear margin; ten end at it.

    Args:
        steps: gradient steps from each start.
        step_size: length of a step; None is 10 * eps / steps. The founding paper's protocol is
            `PGD(steps=200, step_size=0.01)`.
        restarts: random starts, uniform in the ball.
        generator: of the starts; None draws from a fresh one with seed 0, equal in every call.

    Raises:
        ValueError: if a number is not positive.

    Reference:
        Madry et al. (2018), *Towards Deep Learning Models Resistant to Adversarial Attacks*,
        section 2.1; arXiv:1706.06083.

    Example:
        >>> PGD(steps=20).restarts
        1
    """

    steps: int = 200
    step_size: float | None = None
    restarts: int = 1
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would happen."""
        check_counts(steps=self.steps, restarts=self.restarts)
        if self.step_size is not None:
            check_sizes(step_size=self.step_size)

    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return, for each image, the first misclassified point met, else the last one."""
        generator = self.generator or torch.Generator().manual_seed(0)
        found = images.clone()
        active = torch.arange(len(images), device=images.device)
        for _ in range(self.restarts):
            start = _uniform_in_ball(images[active], radius[active], generator)
            found[active] = clip(images[active] + start, images[active], radius[active])
            active = self._climb(objective, found, images, labels, radius, active)
        return found

    def _climb(
        self,
        objective: Objective,
        found: Tensor,
        images: Tensor,
        labels: Tensor,
        radius: Tensor,
        active: Tensor,
    ) -> Tensor:
        """Move `found[active]` uphill in place; return the indices that are not yet broken."""
        step_size = 10 * radius / self.steps
        if self.step_size is not None:
            step_size = torch.full_like(radius, self.step_size)
        for step in range(self.steps + 1):
            if not len(active):
                break
            margin, gradient = objective.slope(found[active], labels[active])
            lost = margin <= 0
            active, gradient = active[lost], gradient[lost]
            if step < self.steps:
                length = per_image(step_size[active], gradient).to(gradient.dtype)
                moved = found[active] + length * directions(gradient)
                found[active] = clip(moved, images[active], radius[active])
        return active


def _uniform_in_ball(images: Tensor, radius: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in the l2 ball: a Gaussian's direction, a radius with the law u^(1/d)."""
    place = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    gaussian = torch.randn(images.shape, **place).to(images.device)
    share = torch.rand(len(images), **place).to(images.device) ** (1 / max(images[0:1].numel(), 1))
    return (directions(gaussian) * per_image(radius * share, images)).to(images.dtype)
