"""Any loss, less a share of the certified radius."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from taut._arguments import check_fields, positive
from taut.losses._inputs import AbstractImageLoss, LossInputs, classification
from taut.losses._offset_cross_entropy import OffsetCrossEntropy
from taut.losses._pairs import pair_constants


@final
@dataclass(frozen=True)
class CertificateRegularised(AbstractImageLoss):
    r"""A loss minus the mean certified radius of correctly classified images.

    .. math:: \text{base} - \gamma \cdot \frac1n \sum_i \max\Bigl(0,
        \min_{j \ne y_i} \frac{z_{y_i} - z_j}{c_{y_i j}}\Bigr)

    with :math:`c_{yj} = L \|w_y - w_j\|` where a `head` is given, else :math:`\sqrt2 L`. Gradients
    flow through the radius, the head and the bound if it is a tensor that requires one;
    `taut train` gives both as :class:`EMMA` says. The nets of the paper are 1-Lipschitz, and their
    bound is a number.

    Args:
        base: the loss that is regularised.
        weight: :math:`\gamma`; > 0.

    Raises:
        ValueError: if `weight` is not positive or `base` has no loss for each image; on calling, as
            the base does.

    Reference:
        Singla, Singla, Feizi (2022), *Improved deterministic l2 robustness on CIFAR-10 and
        CIFAR-100*, certificate regularisation; arXiv:2108.04062. There the base is cross-entropy.

    Example:
        >>> loss = CertificateRegularised(OffsetCrossEntropy(0.0, 1.0), weight=0.5)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(-0.5802)
    """

    kind = "certificate-regularised"
    uses_bound = True

    base: AbstractImageLoss = field(default_factory=lambda: OffsetCrossEntropy(0.0, 1.0))
    weight: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self, positive, "weight")
        if not isinstance(self.base, AbstractImageLoss):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"`base` must be a loss of single images; got {self.base!r}.")

    @property
    def compares_classes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether its base does."""
        return self.base.compares_classes

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image."""
        logits, labels = classification(inputs)
        lead = logits.gather(1, labels[:, None]) - logits
        constants = pair_constants(inputs, labels)
        itself = torch.zeros_like(lead, dtype=torch.bool).scatter(1, labels[:, None], True)
        # Rows that are equal never part their classes: the quotient is infinite, or 0 of a tie.
        tiny = torch.finfo(constants.dtype).tiny
        lead, constants = lead.clamp(min=0), constants.clamp(min=tiny)
        radii = (lead / constants).detach().masked_fill(itself, torch.inf)
        # The gradient is that of the nearest class alone, as it may be infinite in others; there is
        # none where its rows are equal.
        nearest = radii.argmin(1, keepdim=True)
        lead, constants = lead.gather(1, nearest), constants.gather(1, nearest)
        apart = constants.detach() > tiny**0.25
        radius = lead.where(apart, lead.detach()) / constants.where(apart, constants.detach())
        radius = radius[:, 0].clamp(max=torch.finfo(radii.dtype).max)
        return self.base.each(inputs) - self.weight * radius
