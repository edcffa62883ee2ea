"""Projected gradient ascent in l2."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from taut.attacks._base import AbstractAttack, count, positive
from taut.attacks._geometry import clip, directions, per_image
from taut.attacks._objective import Batch, Labels, Objective, Radii
from taut.linalg.rates import wide_dtype

# Off the CPU a step does not wait to hear which images it may leave alone: these are asked for once
# in so many steps.
_STEPS_BETWEEN_WAITS = 10


@final
@dataclass(frozen=True, kw_only=True)
class PGD(AbstractAttack):
    r"""PGD: projected gradient steps of fixed length; quick and strong, the attack to try first.

    It climbs the margin from a random start. After each step the point is clipped to the ball and
    the box. An image once misclassified is left alone, so the cost falls as the attack succeeds.

    The default walk is ten radii long. On the sphere the angle between point and gradient shrinks
    like :math:`e^{-\text{length}/\varepsilon}`: the common 2.5 radii end 9 degrees, or 1.3 % of
    eps, short of the best point of a linear margin; ten end at it.

    Args:
        steps: gradient steps from each start.
        step_size: length of a step; None is 10 * eps / steps. The founding paper's protocol is
            `PGD(steps=200, step_size=0.01)`.
        restarts: random starts, uniform in the ball.
        generator: of the starts; None draws from a fresh one with seed 0, equal in every call.

    Reference:
        Madry et al. (2018), *Towards Deep Learning Models Resistant to Adversarial Attacks*,
        section 2.1; arXiv:1706.06083.

    Example:
        >>> PGD(steps=20).restarts
        1
    """

    kind: ClassVar[str] = "pgd"
    steps: int = count(200)
    step_size: float | None = positive(None)
    restarts: int = count(1)
    generator: torch.Generator | None = None

    def perturb(self, objective: Objective, images: Batch, labels: Labels, radius: Radii) -> Batch:
        """Return, for each image, the first misclassified point found, else the last point."""
        generator = self.generator or torch.Generator("cpu").manual_seed(0)
        moved = images.clone()
        active = torch.arange(len(images), device=images.device)
        for _ in range(self.restarts):
            start = _uniform_in_ball(images[active], radius[active], generator)
            moved[active] = clip(images[active] + start, images[active], radius[active])
            active = self._climb(objective, moved, images, labels, radius, active)
        return moved

    def _climb(
        self,
        objective: Objective,
        moved: Tensor,
        images: Tensor,
        labels: Tensor,
        radius: Tensor,
        active: Tensor,
    ) -> Tensor:
        """Move `moved[active]` uphill in place; return the indices not yet misclassified."""
        length = 10 * radius / self.steps
        if self.step_size is not None:
            length = torch.full_like(radius, self.step_size)
        waits = 1 if images.is_cpu else _STEPS_BETWEEN_WAITS
        for step in range(self.steps + 1):
            margin, gradient = objective.slope(moved[active], labels[active])
            right = margin <= 0
            if step % waits == 0 or step == self.steps:
                kept = right.nonzero()[:, 0]
                active, gradient, right = active[kept], gradient[kept], right[kept]
            if step == self.steps or not len(active):
                break
            before = moved[active]
            size = per_image(length[active], gradient).to(gradient.dtype)
            ahead = clip(before + size * directions(gradient), images[active], radius[active])
            moved[active] = torch.where(per_image(right, ahead), ahead, before)
        return active


def _uniform_in_ball(images: Tensor, radius: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniformly from the l2 ball: a Gaussian's direction, a radius with the law u^(1/d)."""
    like = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    gaussian, share = torch.randn(images.shape, **like), torch.rand(len(images), **like)
    share = share ** (1 / max(images[0:1].numel(), 1))
    dtype = wide_dtype(images.device)
    gaussian, share = (x.to(dtype).to(images.device) for x in (gaussian, share))
    return (directions(gaussian) * per_image(radius * share, images)).to(images.dtype)
