"""Both sides of the truth on the same images: what is proved and what an attack finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from taut.attacks import attack, smallest_attack
from taut.certification import above, certified_radius
from taut.lipschitz import LipschitzBound
from taut.parametrizations import cached

_ROUNDING = 1e-5
"""Slack of the logits' float32 rounding when an attack's distance meets a certified radius."""


@final
@dataclass(frozen=True)
class Robustness:
    """What is known about each of some images; tensors on the CPU.

    Attributes:
        images: in [0, 1].
        labels: true classes.
        predictions: of the images.
        radius: certified l2 radius, 0 where the prediction is wrong.
        adversarial: the nearest misclassified image found, else the image itself.
        fooled: predictions of `adversarial`.
        nearest: its l2 distance, 0 where the image itself is misclassified, inf if none was found.
        attacked: by eps as given, the share that survived every attack within it.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> found = measure(model, images, labels, ("0.1",), bound=2.0, steps=10)
        >>> found.certified("0.1") <= found.attacked["0.1"] <= found.clean_accuracy
        True
    """

    images: Float[Tensor, "b *shape"]
    labels: Int[Tensor, " b"]
    predictions: Int[Tensor, " b"]
    radius: Float64[Tensor, " b"]
    adversarial: Float[Tensor, "b *shape"]
    fooled: Int[Tensor, " b"]
    nearest: Float64[Tensor, " b"]
    attacked: dict[str, float]

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified correctly."""
        return (self.predictions == self.labels).double().mean().item()

    def certified(self, eps: str) -> float:
        """Share of images proved correct within `eps`."""
        return above(self.radius, eps).double().mean().item()

    def broken_certificates(self) -> list[int]:
        """Images misclassified nearer than their certified radius; always empty if we are right."""
        return (self.nearest < self.radius - _ROUNDING).nonzero().flatten().tolist()


def measure(
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    eps: Sequence[str],
    *,
    bound: float | LipschitzBound,
    steps: int = 50,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Robustness:
    """Certify and attack the same images: PGD at each eps, and the smallest attack on each image.

    Args:
        model: maps images to logits.
        images: in [0, 1].
        labels: true classes.
        eps: l2 radii as text.
        bound: proved Lipschitz bound of the model.
        steps: of PGD.
        on_progress: called with the number of images done.

    Returns:
        What was found; an image counts as broken at eps if any attack broke it within eps.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> measure(model, images, labels, (), bound=2.0).nearest.shape
        torch.Size([3])
    """
    size = 128
    batches = []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        batches.append(_measure_batch(model, images[part], labels[part], eps, steps))
        on_progress(min(start + size, len(images)))
    logits, adversarial, fooled, nearest, survived = map(torch.cat, zip(*batches, strict=True))
    images, labels = images.cpu(), labels.cpu()
    return Robustness(
        images=images,
        labels=labels,
        predictions=logits.argmax(1),
        radius=certified_radius(logits, labels, bound),
        adversarial=adversarial,
        fooled=fooled,
        nearest=nearest,
        attacked=dict(zip(eps, survived.double().mean(0).tolist(), strict=True)),
    )


def _measure_batch(
    model: nn.Module, images: Tensor, labels: Tensor, eps: Sequence[str], steps: int
) -> tuple[Tensor, ...]:
    """Logits, nearest adversarial images, their predictions and distances, survival by eps."""
    best = smallest_attack(model, images, labels)
    nearest = torch.where(best.success, best.distance, torch.inf)
    adversarial = best.adversarial
    survived = torch.ones(len(images), len(eps), dtype=torch.bool, device=images.device)
    for i, radius in enumerate(eps):
        result = attack(model, images, labels, radius, steps=steps)
        closer = result.success & (result.distance < nearest)
        nearest = torch.where(closer, result.distance, nearest)
        adversarial = torch.where(closer[:, None, None, None], result.adversarial, adversarial)
        survived[:, i] = ~result.success
    radii = torch.tensor([float(Fraction(text)) for text in eps], dtype=torch.float64)
    survived &= nearest[:, None] > radii.to(nearest.device)
    with torch.no_grad(), cached():
        fooled = model(adversarial).argmax(1)
        results = (model(images), adversarial, fooled, nearest, survived)
    return tuple(tensor.cpu() for tensor in results)
