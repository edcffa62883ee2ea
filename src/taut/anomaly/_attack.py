"""The AUROC under an attack: no attack gets below the certified one."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.anomaly._auroc import auroc
from taut.attacks import AbstractAttack, attack
from taut.certification import Eps
from taut.parametrizations import cached

__all__ = ["attacked_auroc"]

_BATCH = 256
_FAR = 2.0**30
"""Added to a score so that no attack crosses 0: it goes on to its end, along the same gradient."""


def attacked_auroc(
    detector: nn.Module,
    inliers: Float[Tensor, "n *shape"],
    outliers: Float[Tensor, "m *shape"],
    eps: Eps,
    method: str | AbstractAttack = "pgd",
    **options: Any,
) -> float:
    """AUROC after an attack that lowers the score of each inlier and raises that of each outlier.

    An upper bound of the AUROC under the worst perturbation, of the detector as it runs. The
    certified one, of the arithmetic in which it runs ("float32" or "float64"), is a lower bound.

    Args:
        detector: from samples to one number each, which is high for normal ones.
        inliers: normal samples in [0, 1].
        outliers: anomalies in [0, 1].
        eps: l2 radius: a number, a fraction, or a string such as "8/255".
        method: as of :func:`taut.attack`.
        **options: of the attack, such as `steps`; or `batch_size`.

    Raises:
        ValueError: as `taut.attack` does.

    Example:
        >>> detector = nn.Linear(2, 1)
        >>> inliers, outliers = torch.rand(5, 2), torch.rand(6, 2)
        >>> found = attacked_auroc(detector, inliers, outliers, "36/255", steps=5)
        >>> found >= taut.anomaly.certify(detector, inliers, outliers).certified_auroc["36/255"]
        True
    """
    sides: list[Tensor] = []
    for label, samples in ((1, inliers), (0, outliers)):
        far = _Far(detector, _FAR if label else -_FAR)
        labels = torch.full((len(samples),), label, device=samples.device)
        moved = attack(far, samples, labels, eps, method, **options).adversarial
        with torch.no_grad(), cached():
            sides.append(torch.cat([detector(x).flatten() for x in moved.split(_BATCH)]))
    return auroc(*sides)


class _Far(nn.Module):
    """A score far from 0."""

    def __init__(self, detector: nn.Module, far: float) -> None:
        super().__init__()
        self.detector, self.far = detector, far

    def forward(self, x: Tensor) -> Tensor:
        return self.detector(x) + self.far
