"""Of several attacks on the same images, the best one for each image."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from taut.attacks._base import as_radius


@runtime_checkable
class Outcome(Protocol):
    """What an attack came to: `AttackResult`, or `Attacked` as it is kept in a file.

    Example:
        >>> from taut.attacks import AttackResult
        >>> zeros = torch.zeros(1, 1, 2, 2)
        >>> isinstance(AttackResult(zeros, zeros[:, 0, 0, 0] > 0, zeros.double()[:, 0, 0, 0]),
        ...            Outcome)
        True
    """

    @property
    def success(self) -> Bool[Tensor, " b"]:
        """Which images were misclassified."""
        ...

    @property
    def distance(self) -> Float64[Tensor, " b"]:
        """How far the misclassified ones lie from theirs."""
        ...


@final
@dataclass(frozen=True)
class Strongest:
    """The best attack on each image.

    Attributes:
        success: whether any attack succeeded.
        distance: of the nearest success, inf where there is none.
        method: name of the attack that found it, None where none did.
        accuracies: for each attack, the share that it left correct.

    Example:
        >>> found = Strongest(torch.tensor([True, False]), torch.tensor([0.5, torch.inf]).double(),
        ...                   ("pgd", None), {"pgd": 0.5})
        >>> found.accuracy
        0.5
    """

    success: Bool[Tensor, " b"]
    distance: Float64[Tensor, " b"]
    method: tuple[str | None, ...]
    accuracies: dict[str, float]

    @property
    def accuracy(self) -> float:
        """Share of images that every attack left correct."""
        return 1 - self.success.double().mean().item()


def strongest(
    results: Mapping[str, Outcome],
    eps: int | float | str | Fraction | None = None,
    *,
    first: int | None = None,
) -> Strongest:
    """Take, for each image, the attack that misclassified it at the smallest distance.

    Args:
        results: of attacks on the same images, by name.
        eps: count what lies within this l2 radius alone; None counts every success.
        first: look at the first so many images alone, which each result must be of.

    Raises:
        ValueError: if there is no result, they are of different numbers of images, or `eps` is no
            positive number.

    Example:
        >>> from taut.attacks import attack
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> results = {m: attack(model, images, labels, 0.2, m) for m in ("pgd", "fgsm")}
        >>> found = strongest(results)
        >>> found.accuracy <= min(found.accuracies.values())
        True
    """
    counts = {name: len(result.success[:first]) for name, result in results.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(
            "`results` must be of one or more attacks on the same images; got "
            f"{', '.join(f'{name} of {count}' for name, count in counts.items()) or 'none'}."
        )
    reached = torch.stack([_reached(result, eps)[:first] for result in results.values()])
    distance, best = reached.min(0)
    success, names = distance < torch.inf, list(results)
    return Strongest(
        success,
        distance,
        tuple(names[i] if hit else None for i, hit in zip(best.tolist(), success, strict=True)),
        {
            name: 1 - (row < torch.inf).double().mean().item()
            for name, row in zip(names, reached, strict=True)
        },
    )


def _reached(result: Outcome, eps: int | float | str | Fraction | None) -> Tensor:
    """Distance of each success within eps, else inf."""
    counts = result.success
    if eps is not None:
        counts = counts & (result.distance <= as_radius(eps))
    return torch.where(counts, result.distance, torch.inf)
