"""Scores as one detector: their mean, less a threshold."""

import copy
import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_tensor, unit_share
from taut.parametrizations import cached

__all__ = ["Detector"]

_BATCH = 256
_ROUNDING = 16


@final
class Detector(nn.Module):
    r"""A detector: the mean of scores, less a threshold; positive for normal samples.

    Guarantee: as Lipschitz as the scores are on average: a mean of 1-Lipschitz scores is
        1-Lipschitz, so that the sign at x holds within :math:`|f(x)|`.

    Args:
        scores: modules of one number a sample, high for normal ones.
        threshold: subtracted from the mean; see :meth:`calibrated`.

    Raises:
        ValueError: if there is no score.

    Example:
        >>> detector = Detector(nn.Linear(2, 1), nn.Linear(2, 1))
        >>> float(taut.lipschitz_bound(detector, (2,))) <= 1.5
        True
    """

    threshold: Tensor

    def __init__(self, *scores: nn.Module, threshold: float = 0.0) -> None:
        super().__init__()
        if not scores:
            raise ValueError("`scores` must be at least one module; got none.")
        self.scores = nn.ModuleList(scores)
        like = next((t for s in scores for t in s.state_dict().values()), torch.zeros(()))
        self.register_buffer("threshold", torch.tensor(threshold).to(like))

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 1"]:
        """The scores as a column."""
        total = self.scores[0](x)
        for score in self.scores[1:]:
            total = total + score(x)
        return total / len(self.scores) - self.threshold

    def calibrated(self, inliers: Float[Tensor, "n *shape"], keep: float = 0.95) -> "Detector":
        """A copy whose threshold accepts a share of normal samples: at least that, if scores tie.

        Args:
            inliers: normal samples that the scores were not made from.
            keep: share to accept, from 0 to 1.

        Raises:
            ValueError: if `keep` is out of its range, there is no sample, or a score is not finite.

        Example:
            >>> detector = Detector(nn.Linear(2, 1)).calibrated(torch.rand(100, 2), keep=0.9)
            >>> float((detector(torch.rand(1000, 2)) > 0).float().mean()) > 0.7
            True
        """
        check_tensor("inliers", inliers)
        keep = unit_share("keep", keep)
        if len(inliers) == 0:
            raise ValueError("`inliers` must have at least one sample; got none.")
        found = copy.deepcopy(self)
        found.threshold.zero_()
        with torch.no_grad(), cached():
            scores = torch.cat([found(x) for x in inliers.split(_BATCH)]).flatten()
        if not scores.isfinite().all():
            raise ValueError("`inliers` must have finite scores; one is NaN or Inf.")
        count = math.ceil(keep * len(scores))
        least = scores.topk(max(count, 1)).values[-1]
        # Scores round differently in other batches, and only what is above the threshold passes.
        room = _ROUNDING * torch.finfo(scores.dtype).eps * scores.abs().max()
        below = torch.nextafter(least - room, torch.full_like(least, -math.inf))
        found.threshold.copy_(below if count else least)
        return found
