"""What an attack returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from jaxtyping import Bool, Float, Float64
from torch import Tensor

from taut._display import html_table
from taut.certification import Eps


class AbstractOutcome(ABC):
    """Which images were misclassified at which distance; prints as three lines."""

    success: Bool[Tensor, " b"]
    distance: Float64[Tensor, " b"]

    @property
    def accuracy(self) -> float:
        """Share of images left correctly classified."""
        return 1 - self.success.double().mean().item()

    @abstractmethod
    def _about(self) -> str:
        """Return the attack and the distance that it looked at."""

    def _facts(self) -> dict[str, str]:
        hits, total = self.distance[self.success], len(self.success)
        count = f"{len(hits)} of {total} images"
        return {
            type(self).__name__: self._about(),
            "misclassified": f"{count} ({100 * len(hits) / total:.2f} %)" if total else count,
            "at a distance of": f"{hits.median():.4g} in the median, {hits.max():.4g} at most"
            if len(hits)
            else "none",
        }

    def __repr__(self) -> str:
        return "\n  ".join(f"{name}: {fact}" for name, fact in self._facts().items())

    def _repr_html_(self) -> str:
        return html_table(self._facts().items())


@final
@dataclass(frozen=True, repr=False)
class AttackResult(AbstractOutcome):
    """The result of an attack.

    Attributes:
        adversarial: images in the ball and the pixel box; the image itself where nothing was done.
        success: whether the model misclassifies `adversarial`.
        distance: l2 distance to the image in float64; 0 where the image itself is misclassified.
        eps: the radii as they were given; empty if the attack looked for the smallest distance.
        method: kind of the attack.

    Example:
        >>> zeros = torch.zeros(2, 1, 2, 2)
        >>> AttackResult(zeros, torch.tensor([True, False]), torch.zeros(2).double(), (0.1,), "pgd")
        AttackResult: pgd, eps 0.1
          misclassified: 1 of 2 images (50.00 %)
          at a distance of: 0 in the median, 0 at most
    """

    adversarial: Float[Tensor, "b *shape"]
    success: Bool[Tensor, " b"]
    distance: Float64[Tensor, " b"]
    eps: tuple[Eps, ...] = ()
    method: str = "an attack"

    @property
    def attacked_accuracy(self) -> dict[Eps, float]:
        """For each eps, the share of images that remain correctly classified within it."""
        within = {eps: self.success & (self.distance <= as_float(eps)) for eps in self.eps}
        return {eps: 1 - hits.double().mean().item() for eps, hits in within.items()}

    def _about(self) -> str:
        radii = ", ".join(map(str, self.eps))
        return f"{self.method}, eps {radii}" if radii else f"{self.method}, any distance"


def as_float(eps: Eps) -> float:
    """Return the float of a checked eps."""
    return float(Fraction(eps))
