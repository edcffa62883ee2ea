"""Attacks of foolbox, run without traces and ended at the boundary."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from taut.attacks._foreign import Logits, isolated, library
from taut.attacks._geometry import per_image
from taut.attacks._objective import Objective
from taut.attacks._segment import halve

_DRAWS = 100
"""Noise images that a start is looked for among, beside the other images of the batch."""


def run_foolbox(
    method: Any,
    objective: Objective,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    seed: int = 0,
    **starts: Tensor,
) -> Float[Tensor, "b *shape"]:
    """Run a minimising attack of foolbox and walk back from what it finds to the boundary.

    Args:
        method: such as `foolbox.attacks.L2DeepFoolAttack()`.
        objective: the model.
        images: classified as `labels`, in [0, 1].
        labels: true classes.
        seed: of what the attack draws.
        **starts: `starting_points`, where the attack takes them.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images = torch.full((1, 1, 2, 2), 0.5)
        >>> labels = model(images).argmax(1)
        >>> deepfool = library("foolbox").attacks.L2DeepFoolAttack(steps=5)
        >>> run_foolbox(deepfool, Objective(model), images, labels).shape
        torch.Size([1, 1, 2, 2])
    """
    with isolated(seed):
        module = Logits(objective, images)
        model = library("foolbox").PyTorchModel(module, bounds=(0, 1), device=images.device)
        found = method.run(model, images, labels, **starts).detach()
    return halve(objective, images, labels, found)


def run_from(
    method: Any,
    objective: Objective,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    seed: int,
    starts: tuple[Float[Tensor, "b *shape"], Bool[Tensor, " b"]],
) -> Float[Tensor, "b *shape"]:
    """Run an attack of foolbox that needs a misclassified point to start from.

    Args:
        method: such as `foolbox.attacks.BoundaryAttack()`.
        objective: the model.
        images: classified as `labels`, in [0, 1].
        labels: true classes.
        seed: of what the attack draws.
        starts: a point for each image, and whether it is misclassified; where it is not, it stays.

    Example:
        >>> from torch import nn
        >>> objective = Objective(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        >>> images, none = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.bool)
        >>> walk = library("foolbox").attacks.BoundaryAttack(steps=1)
        >>> torch.equal(run_from(walk, objective, images, none.long(), 0, (images, none)), images)
        True
    """
    points, found = starts
    if found.any():
        given = (objective, images[found], labels[found], seed)
        points[found] = run_foolbox(method, *given, starting_points=points[found])
    return points


def starting_points(
    objective: Objective,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    seed: int,
) -> tuple[Float[Tensor, "b *shape"], Bool[Tensor, " b"]]:
    """Return a misclassified point for each image, and whether there is one.

    It lies at the boundary, on the way to the nearest of the other images and of some noise that
    the model does not take for the label: noise alone often looks like one class to a model.

    Example:
        >>> from torch import nn
        >>> objective = Objective(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        >>> images = torch.rand(3, 1, 2, 2)
        >>> labels = objective.logits(images).argmax(1)
        >>> points, found = starting_points(objective, images, labels, 0)
        >>> bool((objective.broken(points, labels) == found).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(_DRAWS, *images.shape[1:], generator=generator).to(images)
    pool = torch.cat([images, noise])
    with torch.no_grad():
        answers = objective.logits(pool).argmax(1)
        apart = torch.cdist(images.flatten(1).double(), pool.flatten(1).double())
        apart = apart.masked_fill(answers[None] == labels[:, None], torch.inf)
        other = per_image(apart.amin(1) < torch.inf, images)
        points = torch.where(other, pool[apart.argmin(1)], images)
        points = halve(objective, images, labels, points)
        return points, objective.margin(points, labels) > 0
