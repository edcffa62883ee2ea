"""What is proven, and what attacks find, on the same images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from taut.attacks import attack, smallest_attack
from taut.certification import Certification, above, class_logits
from taut.parametrizations import cached

_BATCH = 128


@final
@dataclass(frozen=True)
class Robustness:
    """Certificates and attacks, image by image; tensors on the CPU.

    Attributes:
        images: the images, in [0, 1].
        labels: true classes.
        predictions: predictions for the images.
        radius: certified l2 radius; 0 where the certified program is wrong.
        adversarial: the nearest misclassified image found, or the image itself.
        fooled: predictions for `adversarial`.
        nearest: l2 distance of `adversarial`; 0 where the image itself is misclassified, inf if no
            attack succeeded.
        attacked: share of images that survived every attack, by eps.
        refuted: whether an attack within the radius changed the answer of the certified program.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> certification = taut.certify(model, images, labels)
        >>> robustness = measure_robustness(model, images, ("0.1",), certification, steps=10)
        >>> robustness.certified("0.1") <= robustness.attacked["0.1"] <= robustness.clean_accuracy
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
        """Share of images proven correct within `eps`."""
        return above(self.radius, eps).double().mean().item()

    def broken_certificates(self) -> list[int]:
        """Images whose certificate an attack refuted; empty if the proofs are right."""
        return self.refuted.nonzero().flatten().tolist()


def measure_robustness(
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
        images: the first of the certified images, in [0, 1].
        eps: l2 radii as text.
        certification: certification of the model and the images.
        steps: steps of PGD.
        on_progress: called with the number of images done.

    Returns:
        The results; an image counts as broken at eps if any attack broke it within eps.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> measure_robustness(model, images, (), taut.certify(model, images, labels)).nearest.shape
        torch.Size([3])
    """
    batches = []
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        batches.append(_measure_batch(model, part, start, eps, certification, steps))
        on_progress(start + len(part))
    columns = map(torch.cat, zip(*batches, strict=True))
    predictions, adversarial, fooled, nearest, refuted, survived = columns
    return Robustness(
        images=images.cpu(),
        labels=certification.labels[: len(images)].cpu(),
        predictions=predictions,
        radius=certification.radius[: len(images)].cpu(),
        adversarial=adversarial,
        fooled=fooled,
        nearest=nearest,
        attacked=dict(zip(eps, survived.double().mean(0).tolist(), strict=True)),
        refuted=refuted,
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
    results = [smallest_attack(model, images, labels)]
    results += [attack(model, images, labels, radius, steps=steps) for radius in eps]
    nearest = images.new_full((len(images),), torch.inf, dtype=torch.float64)
    adversarial = results[0].adversarial
    refuted = torch.zeros_like(labels, dtype=torch.bool)
    for result in results:
        refuted |= certification.refuted(images, result.adversarial, places=places)
        closer = result.success & (result.distance < nearest)
        nearest = torch.where(closer, result.distance, nearest)
        over_image = closer.view(-1, *(1,) * (images.ndim - 1))
        adversarial = torch.where(over_image, result.adversarial, adversarial)
    radii = torch.tensor([float(Fraction(text)) for text in eps], dtype=torch.float64, device="cpu")
    survived = nearest[:, None] > radii.to(nearest.device)
    for i, result in enumerate(results[1:]):
        survived[:, i] &= ~result.success
    with torch.no_grad(), cached():
        predictions, fooled = (class_logits(model(x)).argmax(1) for x in (images, adversarial))
    columns = (predictions, adversarial, fooled, nearest, refuted, survived)
    return tuple(tensor.cpu() for tensor in columns)
