"""Cross-entropy, and agreement of the prediction with its worst case nearby."""

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from taut._arguments import check_fields, positive, unit_share
from taut.losses._inputs import (
    AbstractImageLoss,
    LossInputs,
    classification,
)
from taut.losses._pairs import Radius, pair_constants, radius_of, radius_setting


@final
@dataclass(frozen=True)
class CertifiedTRADES(AbstractImageLoss):
    r"""Cross-entropy plus the divergence between a prediction and its certified worst case.

    .. math:: \operatorname{CE}(z / T, y)
        + \lambda \operatorname{KL}\bigl(\operatorname{softmax}(z / T) \,\|\,
        \operatorname{softmax}((z + c\,\varepsilon) / T)\bigr)

    :math:`c_j` is by how much class j may gain on the predicted class for each unit of the input
    (see :class:`EMMA`). The first term fits the labels; the second asks for predictions, right or
    wrong, that no input within :math:`\varepsilon` changes much. TRADES searches that input by an
    attack; here its logits are bounded, in one pass. Gradients flow through c: through the rows of
    `head`, and through `bound` if it is a tensor that requires one, as in the paper; `taut train`
    gives both as :class:`EMMA` says.

    Args:
        eps: the radius, in the units of the images; a number or a text such as "36/255".
        weight: :math:`\lambda`; > 0.
        temperature: T; > 0.
        smoothing: share of each label that goes to all classes alike; in [0, 1).

    Raises:
        ValueError: if a setting is out of range; on calling, as :class:`EMMA`.

    Reference:
        Zhang et al. (2019), *Theoretically Principled Trade-off between Robustness and Accuracy*,
        eq. 5, arXiv:1901.08573; with certified logits, Leino, Wang, Fredrikson (2021),
        *Globally-Robust Neural Networks*, section 4, arXiv:2102.08452, who add a logit for
        "not certified" instead.

    Example:
        >>> loss = CertifiedTRADES(eps=0.5, weight=1.0, temperature=1.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.1582)
    """

    kind = "certified-trades"
    uses_bound = True

    eps: Radius = "36/255"
    weight: float = 1.0
    temperature: float = 0.25
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, radius_setting, "eps")
        check_fields(self, positive, "weight", "temperature")
        check_fields(self, unit_share, "smoothing", one=False)

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image."""
        logits, labels = classification(inputs)
        gain = pair_constants(inputs, logits.argmax(1)) * radius_of(self.eps)
        tempered = logits / self.temperature
        here = F.log_softmax(tempered, 1)
        worst = F.log_softmax((logits + gain) / self.temperature, 1)
        divergence = F.kl_div(worst, here, reduction="none", log_target=True).sum(1)
        fit = F.cross_entropy(tempered, labels, reduction="none", label_smoothing=self.smoothing)
        return fit + self.weight * divergence
