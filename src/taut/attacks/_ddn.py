"""The smallest perturbation, by decoupling its direction from its norm."""

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar, final

import torch

from taut.attacks._base import AbstractSmallestAttack, count, option
from taut.attacks._geometry import clip, directions, distances, norms, per_image
from taut.attacks._objective import Batch, Labels, Objective, Radii
from taut.linalg.rates import wide


@final
@dataclass(frozen=True, kw_only=True)
class DDN(AbstractSmallestAttack):
    r"""DDN: gradient steps on a sphere whose radius adapts to the boundary; finds small distances.

    The point moves along the normalised gradient and is put back on a sphere about the image,
    whose radius shrinks by the factor :math:`1-\gamma` while the point is misclassified and
    grows by :math:`1+\gamma` while it is not: the search follows the decision boundary. At the end
    the segment from the image to the nearest point met is bisected, so that the boundary lies
    within a part in a million.

    Departures from the paper: the first radius is the distance to the boundary of the linearised
    margin, steps are measured in the current radius (so no scale has to be guessed), the margin
    replaces the cross-entropy, and the bisection at the end.

    Args:
        steps: gradient steps.
        gamma: relative change of the radius in a step.

    Reference:
        Rony et al. (2019), *Decoupling Direction and Norm for Efficient Gradient-Based L2
        Adversarial Attacks and Defenses*, algorithm 1; arXiv:1811.09600.

    Example:
        >>> DDN(steps=50)
        DDN(steps=50, gamma=0.05)
    """

    kind: ClassVar[str] = "ddn"
    steps: int = count(100)
    gamma: float = option(0.05, "lie between 0 and 1", lambda gamma: 0 < gamma < 1)

    def perturb(self, objective: Objective, images: Batch, labels: Labels, radius: Radii) -> Batch:
        """Return the nearest misclassified point met within `radius`, else the image itself."""
        margin, gradient = objective.slope(images, labels)
        steepness = norms(gradient)
        linear = -wide(margin) / steepness.clamp_min(torch.finfo(steepness.dtype).tiny)
        sphere = torch.minimum(linear, radius)
        point, nearest = images, images
        best = torch.full_like(radius, torch.inf)
        for step in range(self.steps):
            length = sphere * (0.01 + 0.99 * (1 + cos(pi * step / self.steps)) / 2)
            moved = wide(point) + per_image(length, images) * directions(wide(gradient))
            outward = directions(moved - wide(images))
            point = wide(images) + per_image(sphere, images) * outward
            point = clip(point.to(images.dtype), images, radius)
            margin, gradient = objective.slope(point, labels)
            broken, reached = margin > 0, distances(point, images)
            closer = broken & (reached < best)
            best = torch.where(closer, reached, best)
            nearest = torch.where(per_image(closer, images), point, nearest)
            sphere = sphere * torch.where(broken, 1 - self.gamma, 1 + self.gamma)
            sphere = torch.minimum(sphere, radius)
        return objective.bisect(images, labels, nearest)
