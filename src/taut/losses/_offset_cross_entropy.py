"""Cross-entropy that asks for a margin."""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.losses._inputs import AbstractImageLoss, LossInputs, check_positive, classification


@final
@dataclass(frozen=True)
class OffsetCrossEntropy(AbstractImageLoss):
    r"""Cross-entropy that asks the true class to win by an offset.

    Cross-entropy of :math:`(z - \text{offset} \cdot e_y) / \text{temperature}`. With
    :math:`\text{offset} = \sqrt2\,\varepsilon` it aims at the certified radius
    :math:`\varepsilon` of a 1-Lipschitz classifier. A low temperature compensates for logits that
    cannot grow without bound.

    Args:
        offset: subtracted from the logit of the true class; >= 0.
        temperature: divides all logits after that; > 0.

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

    def __post_init__(self) -> None:
        if not (self.offset >= 0 and math.isfinite(self.offset)):
            raise ValueError(f"`offset` must be a number >= 0; got {self.offset}.")
        check_positive(temperature=self.temperature)

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image."""
        logits, labels = classification(inputs)
        true_class = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        lowered = torch.sub(logits, true_class, alpha=self.offset)
        return F.cross_entropy(lowered / self.temperature, labels, reduction="none")
