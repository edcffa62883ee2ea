"""Cross-entropy with an offset that fades for images that have their margin."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from taut._arguments import check_fields, not_negative, positive
from taut.losses._inputs import (
    AbstractImageLoss,
    LossInputs,
    classification,
    one_hot,
)


@final
@dataclass(frozen=True)
class LogitAnnealing(AbstractImageLoss):
    r"""Cross-entropy with an offset and less weight on images that are already classified well.

    .. math:: -T (1 - p_y)^\beta \log p_y, \qquad
        p = \operatorname{softmax}\bigl((z - \xi e_y) / T\bigr)

    A net of bounded constant has a limited capacity for margins: the factor
    :math:`(1 - p_y)^\beta` takes what images with large margins would claim and leaves it to the
    others. :math:`\beta = 0` is :class:`OffsetCrossEntropy`, times its temperature.

    Args:
        temperature: T; > 0.
        offset: :math:`\xi`, subtracted from the logit of the label; >= 0.
        beta: how fast the loss fades with the margin; >= 0.

    Raises:
        ValueError: if a setting is out of range; on calling, if logits are not `(n, classes)` or
            labels are not class indices.

    Reference:
        Lai et al. (2025), *Enhancing Certified Robustness via Block Reflector Orthogonal Layers
        and Logit Annealing Loss*, arXiv:2505.15174; there on the logits that EMMA moves.

    Example:
        >>> loss = LogitAnnealing(temperature=1.0, offset=2.0, beta=1.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.3466)
    """

    kind = "logit-annealing"

    temperature: float = 0.75
    offset: float = 2.0
    beta: float = 5.0

    def __post_init__(self) -> None:
        check_fields(self, positive, "temperature")
        check_fields(self, not_negative, "offset", "beta")

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image."""
        logits, labels = classification(inputs)
        true_class = one_hot(labels, logits.shape[1]).to(logits.dtype)
        lowered = torch.sub(logits, true_class, alpha=self.offset) / self.temperature
        surprise = F.cross_entropy(lowered, labels, reduction="none")  # -log p_y
        # 1 - p_y without cancellation; the power has no gradient at 0 for beta < 1.
        missing = -torch.expm1(-surprise).clamp(max=-torch.finfo(logits.dtype).tiny)
        return self.temperature * missing**self.beta * surprise
