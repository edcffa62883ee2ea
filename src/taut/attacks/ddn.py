"""The smallest perturbation, by decoupling its direction from its norm."""

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractSmallestAttack, check_counts
from taut.attacks._geometry import clip, directions, distances, norms, per_image
from taut.attacks._objective import Objective
from taut.attacks._segment import halve


@final
@dataclass(frozen=True, kw_only=True)
class DDN(AbstractSmallestAttack):
    r"""Search for the misclassified point nearest to each image.

    The point moves along the normalised gradient and is put back on a sphere about the image,
    whose radius shrinks by the factor :math:`1-\gamma` while the point is misclassified and
    grows by :math:`1+\gamma` while it is not: the search keeps to the decision boundary. At last
    the segment from the image to the nearest point found is halved until the boundary lies within
    a part in a million.

    Departures from the paper: the first radius is the distance to the boundary of the linearised
    margin, steps are measured in the current radius (so no scale has to be guessed), the margin
    takes the place of the cross-entropy, and the halving at the end.

    Args:
        steps: gradient steps.
        gamma: relative change of the radius in a step.

    Raises:
        ValueError: if `steps` < 1 or `gamma` is not between 0 and 1.

    Reference:
        Rony et al. (2019), *Decoupling Direction and Norm for Efficient Gradient-Based L2
        Adversarial Attacks and Defenses*, algorithm 1; arXiv:1811.09600.

    Example:
        >>> DDN(steps=50)
        DDN(steps=50, gamma=0.05)
    """

    steps: int = 100
    gamma: float = 0.05

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would happen."""
        check_counts(steps=self.steps)
        if not 0 < self.gamma < 1:
            raise ValueError(f"`gamma` must lie between 0 and 1; got gamma={self.gamma}.")

    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return the nearest misclassified point met within `radius`, else the image itself."""
        margin, gradient = objective.slope(images, labels)
        linear = -margin.double() / norms(gradient).clamp_min(torch.finfo(torch.float64).tiny)
        sphere = torch.minimum(linear, radius)
        point, nearest = images, images
        best = torch.full_like(radius, torch.inf)
        for step in range(self.steps):
            length = sphere * (0.01 + 0.99 * (1 + cos(pi * step / self.steps)) / 2)
            moved = point.double() + per_image(length, images) * directions(gradient.double())
            outward = directions(moved - images.double())
            point = images.double() + per_image(sphere, images) * outward
            point = clip(point.to(images.dtype), images, radius)
            margin, gradient = objective.slope(point, labels)
            broken, reached = margin > 0, distances(point, images)
            closer = broken & (reached < best)
            best = torch.where(closer, reached, best)
            nearest = torch.where(per_image(closer, images), point, nearest)
            sphere = sphere * torch.where(broken, 1 - self.gamma, 1 + self.gamma)
            sphere = torch.minimum(sphere, radius)
        return halve(objective, images, labels, nearest)


def diameter(images: Float[Tensor, "b *shape"]) -> float:
    """Return the l2 diameter of the pixel box: no attack needs to look farther.

    Example:
        >>> diameter(torch.zeros(5, 1, 2, 2))
        2.0
    """
    return sqrt(images[0].numel()) if len(images) else 1.0
