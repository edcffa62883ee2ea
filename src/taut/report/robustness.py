"""Both sides of the truth on the same images: what is proved and what an attack finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from taut.attacks import attack, smallest_attack
from taut.certification import Certification, above
from taut.parametrizations import cached


@final
@dataclass(frozen=True)
class Robustness:
    """What is known about each of some images; tensors on the CPU.

    Attributes:
        images: in [0, 1].
        labels: true classes.
        predictions: of the images.
        radius: certified l2 radius, 0 where the certified program is wrong.
        adversarial: the nearest misclassified image found, else the image itself.
        fooled: predictions of `adversarial`.
        nearest: its l2 distance, 0 where the image itself is misclassified, inf if none was found.
        attacked: by eps as given, the share that survived every attack within it.
        refuted: whether an attack within the radius changed the answer of the certified program.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> found = measure(model, images, ("0.1",), taut.certify(model, images, labels), steps=10)
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
    refuted: Bool[Tensor, " b"]

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified correctly."""
        return (self.predictions == self.labels).double().mean().item()

    def certified(self, eps: str) -> float:
        """Share of images proved correct within `eps`."""
        return above(self.radius, eps).double().mean().item()

    def broken_certificates(self) -> list[int]:
        """Images whose certificate an attack refuted; always empty if we are right."""
        return self.refuted.nonzero().flatten().tolist()


def measure(
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    eps: Sequence[str],
    certification: Certification,
    *,
    steps: int = 50,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Robustness:
    """Attack certified images: PGD at each eps, and the smallest attack on each image.

    Args:
        model: maps images to logits.
        images: in [0, 1]: the first of those certified.
        eps: l2 radii as text.
        certification: of the model and the images.
        steps: of PGD.
        on_progress: called with the number of images done.

    Returns:
        What was found; an image counts as broken at eps if any attack broke it within eps.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> measure(model, images, (), taut.certify(model, images, labels)).nearest.shape
        torch.Size([3])
    """
    size = 128
    batches = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        batches.append(_measure_batch(model, part, start, eps, certification, steps))
        on_progress(start + len(part))
    names = ("predictions", "adversarial", "fooled", "nearest", "refuted", "survived")
    found = dict(zip(names, map(torch.cat, zip(*batches, strict=True)), strict=True))
    shares = found.pop("survived").double().mean(0).tolist()
    return Robustness(
        images=images.cpu(),
        labels=certification.labels[: len(images)].cpu(),
        radius=certification.radius[: len(images)].cpu(),
        attacked=dict(zip(eps, shares, strict=True)),
        **found,
    )


def _measure_batch(
    model: nn.Module,
    images: Tensor,
    start: int,
    eps: Sequence[str],
    certification: Certification,
    steps: int,
) -> tuple[Tensor, ...]:
    """Predictions, nearest adversarial images, theirs, distances, refutations, survival by eps."""
    places = range(start, start + len(images))
    labels = certification.labels[start : start + len(images)].to(images.device)
    best = smallest_attack(model, images, labels)
    wrong = certification.refuted(model, images, best.adversarial, places=places)
    nearest = torch.where(best.success, best.distance, torch.inf)
    adversarial = best.adversarial
    survived = torch.ones(len(images), len(eps), dtype=torch.bool, device=images.device)
    for i, radius in enumerate(eps):
        result = attack(model, images, labels, radius, steps=steps)
        wrong |= certification.refuted(model, images, result.adversarial, places=places)
        closer = result.success & (result.distance < nearest)
        nearest = torch.where(closer, result.distance, nearest)
        adversarial = torch.where(closer[:, None, None, None], result.adversarial, adversarial)
        survived[:, i] = ~result.success
    radii = torch.tensor([float(Fraction(text)) for text in eps], dtype=torch.float64)
    survived &= nearest[:, None] > radii.to(nearest.device)
    with torch.no_grad(), cached():
        fooled = model(adversarial).argmax(1)
        predictions = model(images).argmax(1)
    results = (predictions, adversarial, fooled, nearest, wrong, survived)
    return tuple(tensor.cpu() for tensor in results)
