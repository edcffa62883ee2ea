"""The multi-class hinge loss of the founding paper."""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut._arguments import check_fields, positive
from taut.losses._inputs import AbstractImageLoss, LossInputs, classification, one_hot


@final
@dataclass(frozen=True)
class MultiMargin(AbstractImageLoss):
    r"""Multi-class hinge loss, zero once every image is certified at radius `eps_train`.

    :math:`\frac1{bc} \sum_i \sum_{j \ne y_i} \max(0, \sqrt2\,\varepsilon - z_{y_i} + z_j)`.

    A 1-Lipschitz classifier is certified at :math:`\varepsilon` where the margin exceeds
    :math:`\sqrt2\,\varepsilon`: the loss pushes exactly the margins that fall short.

    Args:
        eps_train: target l2 radius, in the units of the images; > 0.

    Raises:
        ValueError: if `eps_train` is not positive; on calling, if logits are not `(n, classes)`
            or labels are not class indices.

    Reference:
        Li et al. (2019), *Preventing Gradient Attenuation in Lipschitz Constrained Convolutional
        Networks*, section 5; arXiv:1911.00937. Divided by the number of classes, as in torch.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
        >>> MultiMargin(eps_train=1.0)(logits, torch.tensor([0, 0]))
        tensor(0.3536)
    """

    kind = "multi-margin"

    eps_train: float = 1.5

    def __post_init__(self) -> None:
        check_fields(self, positive, "eps_train")

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image."""
        logits, labels = classification(inputs)
        lead = logits.gather(1, labels[:, None]) - logits
        # That of torch has 0 where logits are NaN.
        lacking = (math.sqrt(2) * self.eps_train - lead).relu()
        return lacking.masked_fill(one_hot(labels, logits.shape[1]), 0.0).mean(1)
