"""The best of several attacks on the same images, image by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from taut.attacks._result import AbstractOutcome, as_float
from taut.certification import Eps, as_eps_sequence


@final
@dataclass(frozen=True, repr=False)
class Strongest(AbstractOutcome):
    """The best attack on each image.

    Attributes:
        success: whether any attack succeeded.
        distance: of the nearest success, inf where there is none.
        method: name of the attack that found it, None where none did.
        accuracies: for each attack, the share that it left correct.

    Example:
        >>> best = Strongest(torch.tensor([True, False]), torch.tensor([0.5, torch.inf]).double(),
        ...                  ("pgd", None), {"pgd": 0.5})
        >>> best.accuracy
        0.5
    """

    success: Bool[Tensor, " b"]
    distance: Float64[Tensor, " b"]
    method: tuple[str | None, ...]
    accuracies: dict[str, float]

    def _about(self) -> str:
        return f"of {', '.join(self.accuracies)}"


def strongest(
    results: Mapping[str, AbstractOutcome],
    eps: Eps | Sequence[Eps] | None = None,
    *,
    first: int | None = None,
) -> Strongest:
    """Combine attacks: for each image, the one that misclassified it at the smallest distance.

    Args:
        results: of attacks on the same images, by name.
        eps: count only what lies within this l2 radius, or the largest of several; None counts
            every success.
        first: use only this many images, the first ones, which each result must cover.

    Raises:
        ValueError: if there is no result, they are of different numbers of images, or `eps` is not
            a positive number.

    Example:
        >>> model, images, labels = torch.nn.Linear(4, 2), torch.rand(3, 4), torch.tensor([0, 1, 1])
        >>> results = {m: taut.attack(model, images, labels, 0.2, m) for m in ("pgd", "fgsm")}
        >>> strongest(results).accuracy <= min(strongest(results).accuracies.values())
        True
    """
    counts = {name: len(result.success[:first]) for name, result in results.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(
            "`results` must be of one or more attacks on the same images; got "
            f"{', '.join(f'{name} of {count}' for name, count in counts.items()) or 'none'}."
        )
    radii = () if eps is None else as_eps_sequence(eps, positive=True)
    radius = max(map(as_float, radii), default=torch.inf)
    hits = [(r.success & (r.distance <= radius), r.distance) for r in results.values()]
    reached = torch.stack([torch.where(*hit, torch.inf)[:first] for hit in hits])
    distance, best = reached.min(0)
    success, names = distance < torch.inf, list(results)
    shares = 1 - (reached < torch.inf).double().mean(1)
    return Strongest(
        success,
        distance,
        tuple(names[i] if hit else None for i, hit in zip(best.tolist(), success, strict=True)),
        dict(zip(names, shares.tolist(), strict=True)),
    )
