"""Certify a detector: an AUROC under attack, and a radius for each decision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from taut._arguments import check_tensor, is_number
from taut._display import html_table
from taut.anomaly._auroc import accepted_at, auroc, lowered, raised
from taut.certification import (
    Certificate,
    Eps,
    as_eps_sequence,
    as_rational,
    norms_upper,
    predict_batches,
)
from taut.linalg.rounding import next_up, up, up_sum
from taut.program import LipschitzBound, canonical

__all__ = ["DetectionCertification", "certify"]


@final
@dataclass(frozen=True, eq=False)
class DetectionCertification:
    """Certified AUROC and radii of a detector on inliers and outliers.

    Tensors are on the CPU and hold the inliers first.

    Attributes:
        auroc: share of the pairs whose inlier scores higher; ties do not count.
        certified_auroc: for each eps as it was given, a lower bound of the AUROC if every sample is
            perturbed by up to eps.
        threshold: samples that score higher are taken for normal.
        radius: certified l2 radius of the decision on each sample; 0 where it is wrong.
        scores: of each sample.
        is_inlier: which samples are normal.
        norms: upper bound of the l2 norm of each sample.
        certificate: what is proven of the detector, whatever the sample.

    Example:
        >>> detector = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = detector.weight.fill_(1.0)
        >>> inliers, outliers = torch.tensor([[2.0], [3.0]]), torch.tensor([[-1.0], [2.5]])
        >>> found = certify(detector, inliers, outliers, eps=(0.1, "1/2"))
        >>> found.auroc, found.certified_auroc
        (0.75, {0.1: 0.75, '1/2': 0.5})
    """

    auroc: float
    certified_auroc: dict[Eps, float]
    threshold: float
    radius: Float64[Tensor, " n"]
    scores: Float64[Tensor, " n"]
    is_inlier: Bool[Tensor, " n"]
    norms: Float64[Tensor, " n"]
    certificate: Certificate

    @property
    def bound(self) -> LipschitzBound:
        """The detector's Lipschitz bound, layer by layer."""
        return self.certificate.bound

    def certified_auroc_at(self, eps: Eps) -> float:
        """The certified AUROC at another radius.

        Args:
            eps: l2 radius: a number, a fraction, or a string such as "8/255".

        Example:
            >>> found = certify(nn.Linear(1, 1), torch.ones(2, 1), torch.zeros(2, 1))
            >>> found.certified_auroc_at(1e6)
            0.0
        """
        return auroc(*self._moved(eps))

    def tpr_at_fpr(self, share: float, eps: Eps = 0) -> float:
        """Share of the inliers accepted by a threshold that accepts a share of outliers at most.

        A point of the ROC curve, certified under perturbations of up to eps of every sample.

        Args:
            share: of the outliers that may be accepted; from 0 to below 1.
            eps: l2 radius; 0 for samples as they are.

        Raises:
            ValueError: if an argument is out of its range.

        Example:
            >>> found = certify(nn.Linear(1, 1), torch.ones(2, 1), torch.zeros(2, 1))
            >>> found.tpr_at_fpr(0.05, eps=1e6)
            0.0
        """
        return accepted_at(share, *self._moved(eps))

    def _moved(self, eps: Eps) -> tuple[Tensor, Tensor]:
        reach = _reach(self.certificate, self.norms, eps)
        low, high = lowered(self.scores, reach), raised(self.scores, reach)
        return low[self.is_inlier], high[~self.is_inlier]

    def _rows(self) -> list[tuple[str, str]]:
        inliers = int(self.is_inlier.sum())
        shares = self.certified_auroc.items()
        return [
            ("Detection", f"{inliers} inliers, {len(self.scores) - inliers} outliers"),
            ("AUROC", f"{self.auroc:.4f}"),
            *((f"certified AUROC at {eps}", f"{share:.4f}") for eps, share in shares),
            ("threshold", f"{self.threshold:.6g}"),
            ("decisions with a radius", f"{(self.radius > 0).double().mean():.4f}"),
            ("Lipschitz bound", f"{float(self.bound):.9g}"),
            ("meaning", self.certificate.meaning),
        ]

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def content(self) -> dict[str, Any]:
        """The certificate of the detector and the results, as plain values."""
        return self.certificate.content() | {
            "auroc": self.auroc,
            "certified_auroc": {str(eps): share for eps, share in self.certified_auroc.items()},
            "is_inlier": self.is_inlier.tolist(),
            "radius": self.radius.tolist(),
            "scores": self.scores.tolist(),
            "threshold": self.threshold,
        }

    def to_json(self) -> str:
        """The certificate and the results as canonical JSON: equal results give equal text."""
        return canonical(self.content())


def certify(
    detector: nn.Module,
    inliers: Tensor,
    outliers: Tensor,
    eps: Eps | Sequence[Eps] = ("8/255", "36/255"),
    threshold: float = 0.0,
    *,
    arithmetic: str = "float64",
    on_progress: Callable[[int], None] = lambda done: None,
) -> DetectionCertification:
    r"""Certify a detector: its AUROC under perturbations, and the radius of each decision.

    Guarantee: however each sample is perturbed by up to eps in l2, the AUROC of the certified
        program is at least `certified_auroc[eps]`: with the proven constant L and the bound E of
        the rounding errors at the sample and at the perturbed one, a score moves by at most
        :math:`L \varepsilon + E`. Within `radius` a sample stays on its side of the threshold.
    Cost: one pass over the samples, and a sort.

    Args:
        detector: from samples to one number each, which is high for normal ones.
        inliers: normal samples, in the precision of the detector; eps is in their units.
        outliers: anomalies.
        eps: one l2 radius or several, as floats, fractions or strings such as "8/255".
        threshold: samples that score higher are taken for normal.
        arithmetic: "float64", "float32" or "real", as of :func:`taut.certify`.
        on_progress: called with the number of samples done.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) as `taut.certify` does.
        ValueError: if samples, eps or the threshold are wrong, or the detector gives more than one
            number, or NaN.

    Reference:
        Béthune et al. (2023), arXiv:2303.01978, for the certified AUROC.

    Example:
        >>> certify(nn.Linear(2, 1), torch.ones(3, 2), -torch.ones(4, 2)).radius.shape
        torch.Size([7])
    """
    radii = as_eps_sequence(eps)
    if not is_number(threshold) or not abs(threshold) < float("inf"):
        raise ValueError(f"`threshold` must be a finite number; got {threshold!r}.")
    check_tensor("inliers", inliers)
    check_tensor("outliers", outliers)
    shape = tuple(inliers.shape)[1:]
    found = predict_batches(
        detector, [inliers, outliers], shape, arithmetic=arithmetic, on_progress=on_progress
    )
    certificate = found.certificate
    if certificate.output_shape not in ((), (1,)):
        raise ValueError(
            f"`detector` must give one number a sample; its outputs are {certificate.output_shape}."
        )
    scores = torch.where(found.classes == 1, found.margin, -found.margin)
    is_inlier = torch.arange(len(scores)) < len(inliers)
    samples = torch.cat([inliers, outliers])
    sides = torch.stack([torch.full_like(scores, threshold), scores], 1)
    result = DetectionCertification(
        auroc=auroc(scores[is_inlier], scores[~is_inlier]),
        certified_auroc={},
        threshold=float(threshold),
        radius=certificate.radius(sides, is_inlier.long(), samples),
        scores=scores,
        is_inlier=is_inlier,
        norms=norms_upper(samples).cpu(),
        certificate=certificate,
    )
    result.certified_auroc.update({value: result.certified_auroc_at(value) for value in radii})
    return result


def _reach(certificate: Certificate, norms: Tensor, eps: Eps) -> Float64[Tensor, " n"]:
    r"""The most that each computed score moves by under a perturbation of up to eps, rounded up.

    Computed scores err by at most :math:`a t + b` at inputs of norm t, here at the sample and at
    the perturbed one: :math:`L \varepsilon + 2 (a |x| + b) + a \varepsilon`; infinite where a
    number may overflow.
    """
    radius = as_rational(eps)
    if certificate.arithmetic == "real":
        reach = up(radius * Fraction(float(certificate.bound)))
        return torch.full_like(norms, reach)
    a, b = certificate.composed.error
    reach = up(radius * Fraction(up_sum(float(certificate.bound), a)))
    reached = next_up(2 * next_up(next_up(a * norms) + b) + reach)
    overflows = next_up(norms + up(radius)) > certificate.composed.norm_limit
    return torch.where(overflows, float("inf"), reached)
