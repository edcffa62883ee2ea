"""Cross-entropy that asks for a margin."""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from taut._arguments import check_fields, not_negative, positive, unit_share
from taut.losses._inputs import (
    AbstractImageLoss,
    LossInputs,
    classification,
    one_hot,
)
from taut.losses._pairs import Radius, radius_of


@final
@dataclass(frozen=True)
class OffsetCrossEntropy(AbstractImageLoss):
    r"""Cross-entropy with an offset subtracted from the true logit.

    Cross-entropy of :math:`(z - \text{offset} \cdot e_y) / \text{temperature}`. With
    :math:`\text{offset} = \sqrt2\,\varepsilon` it aims at the certified radius
    :math:`\varepsilon` of a 1-Lipschitz classifier. A low temperature compensates for logits that
    cannot grow without bound.

    Args:
        offset: subtracted from the logit of the true class; >= 0.
        temperature: divides all logits after that; > 0.
        smoothing: share of each label that goes to all classes alike, after the offset; in [0, 1).

    Raises:
        ValueError: if a setting is out of range; on calling, if logits are not `(n, classes)` or
            labels are not class indices.

    Reference:
        The offset is that of Prach and Lampert (2022), *Almost-Orthogonal Layers for Efficient
        General-Purpose Lipschitz Networks*, arXiv:2208.03160; there the loss is also multiplied
        by the temperature, which has no effect with an optimiser that ignores scale, such as Adam.

    Example:
        >>> loss = OffsetCrossEntropy(offset=2.0, temperature=0.5)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.6931)
    """

    kind = "offset-cross-entropy"

    offset: float = 2.2
    temperature: float = 0.35
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, not_negative, "offset")
        check_fields(self, positive, "temperature")
        check_fields(self, unit_share, "smoothing", one=False)

    @classmethod
    def for_radius(
        cls, eps: Radius, *, temperature: float = 0.25, smoothing: float = 0.0
    ) -> "OffsetCrossEntropy":
        r"""The loss with the offset :math:`2 \sqrt2\,\varepsilon`, for certified accuracy at eps.

        A 1-Lipschitz classifier is certified where its margin exceeds :math:`\sqrt2\,\varepsilon`.
        At a margin equal to the offset the loss still pulls as if classes were tied: twice the
        margin needed is asked for, so that images of average difficulty have it.

        Args:
            eps: l2 radius in the units of the images, > 0; a number or a text such as "36/255".
            temperature: as of the loss.
            smoothing: as of the loss.

        Raises:
            ValueError: if `eps` is no radius, or a setting is out of range.

        Reference:
            Prach, Brau, Buttazzo, Lampert (2024), *1-Lipschitz Layers Compared: Memory, Speed, and
            Certifiable Robustness*, CVPR 2024: offset :math:`2\sqrt2\,\varepsilon` for
            36/255 and temperature 1/4. Prach and Lampert (2022) take :math:`\sqrt2`, which is this
            offset for the radius 1/2.

        Example:
            >>> round(OffsetCrossEntropy.for_radius("36/255").offset, 4)
            0.3993
        """
        offset = 2 * math.sqrt(2) * radius_of(eps)
        return cls(offset, temperature, smoothing)

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image."""
        logits, labels = classification(inputs)
        true_class = one_hot(labels, logits.shape[1]).to(logits.dtype)
        lowered = torch.sub(logits, true_class, alpha=self.offset)
        return F.cross_entropy(
            lowered / self.temperature, labels, reduction="none", label_smoothing=self.smoothing
        )
