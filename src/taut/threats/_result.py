"""What `taut.threats.certify` returns."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from taut._display import html_table, rounded_down
from taut.certification import Arithmetic, Certificate, Eps
from taut.program import LipschitzBound, canonical
from taut.threats._base import AbstractThreat

__all__ = ["ThreatCertification"]


@final
@dataclass(frozen=True, eq=False)
class ThreatCertification:
    """Certified radii and accuracies of a model against a threat.

    Attributes:
        threat: what may change.
        proof: where the radii come from, in words.
        top_k: among how many of the highest classes the label must be.
        clean_accuracy: share of the images where it is, without any change.
        certified_accuracy: for each size as it was given, the share with radius > size.
        radius: certified radius of each image, in the unit of the threat; 0 where wrong or tied.
        radii: radius within which each class does not overtake the label, infinite for the label:
            for targeted attacks. None for threats that are searched.
        margin: logit of the label minus the largest other one, of each image.
        predictions: class with the largest logit, of each image.
        labels: true classes.
        certificate: what is proven of the model, whatever the image.

    Example:
        >>> found = taut.threats.certify(
        ...     torch.nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4).long(), taut.threats.L1()
        ... )
        >>> len(str(found).splitlines()), found.radii.shape
        (3, torch.Size([4, 2]))
    """

    threat: AbstractThreat
    proof: str
    top_k: int
    clean_accuracy: float
    certified_accuracy: dict[Eps, float]
    radius: Tensor
    radii: Tensor | None
    margin: Tensor
    predictions: Tensor
    labels: Tensor
    certificate: Certificate

    @property
    def bound(self) -> LipschitzBound:
        """The model's Lipschitz bound in l2, layer by layer."""
        return self.certificate.bound

    @property
    def arithmetic(self) -> Arithmetic:
        """The arithmetic that the radii hold for: "float64", "float32" or "real"."""
        return self.certificate.arithmetic

    def __repr__(self) -> str:
        shares = ", ".join(f"{a:.4f} at {size}" for size, a in self.certified_accuracy.items())
        return (
            f"Certification of {self._subject()}\n"
            f"clean accuracy {self.clean_accuracy:.4f}, certified {shares or '(no eps)'}\n"
            f"radius {self._spread()}; by {self.proof}"
        )

    def _repr_html_(self) -> str:
        shares = self.certified_accuracy.items()
        return html_table(
            [
                ("Certification", self._subject()),
                ("clean accuracy", f"{self.clean_accuracy:.4f}"),
                *((f"certified at {size}", f"{share:.4f}") for size, share in shares),
                ("radius", self._spread()),
                ("by", self.proof),
            ]
        )

    def _subject(self) -> str:
        top = f", label among the {self.top_k} highest" if self.top_k > 1 else ""
        kind = f"{len(self.labels)} images against {self.threat.kind}"
        return f"{kind}{top} ({self.certificate.meaning})"

    def _spread(self) -> str:
        low, middle, high = (
            rounded_down(f(self.radius)) for f in (torch.min, torch.median, torch.max)
        )
        return f"{low} to {high}, median {middle} ({self.threat.unit})"

    def content(self) -> dict[str, Any]:
        """The results as plain values; None stands for a number that is not finite."""
        settings = dataclasses.fields(self.threat)  # pyright: ignore[reportArgumentType]
        return {
            "arithmetic": self.arithmetic,
            "bound": self.bound.value,
            "certified_accuracy": {str(size): a for size, a in self.certified_accuracy.items()},
            "clean_accuracy": self.clean_accuracy,
            "labels": self.labels.tolist(),
            "margin": _finite(self.margin.tolist()),
            "predictions": self.predictions.tolist(),
            "proof": self.proof,
            "radii": None if self.radii is None else _finite(self.radii.tolist()),
            "radius": _finite(self.radius.tolist()),
            "threat": {"kind": self.threat.kind}
            | {field.name: _plain(getattr(self.threat, field.name)) for field in settings},
            "top_k": self.top_k,
        }

    def to_json(self) -> str:
        """The results as canonical JSON: equal results give equal text."""
        return canonical(self.content())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value if abs(value) < math.inf else None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
