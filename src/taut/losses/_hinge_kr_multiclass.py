"""The hinge Kantorovich-Rubinstein loss of a classifier of several classes."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taut._arguments import check_fields, positive
from taut.losses._inputs import (
    AbstractImageLoss,
    LossInputs,
    can_be_read,
    classification,
    dual_terms,
    given_counts,
    hinge,
    one_hot,
)


@final
@dataclass(frozen=True)
class HingeKRMulticlass(AbstractImageLoss):
    r"""HKR for several classes: the mean of the one-against-rest losses.

    With each logit as a critic between its class and all others,
    :math:`\frac1c \sum_k -\bigl(\operatorname{mean}_{y_i=k} f_k(x_i) -
    \operatorname{mean}_{y_i \ne k} f_k(x_i)\bigr)
    + \alpha \operatorname{mean}_{i,k} \max(0, m - s_{ik} f_k(x_i))`,
    :math:`s_{ik} = 1` for :math:`y_i = k`, else -1. A class of which a batch has no image (or
    nothing else) has no Kantorovich-Rubinstein term there; the hinge counts all.

    Args:
        alpha: weight of the hinge; > 0.
        margin: m; > 0.

    Raises:
        ValueError: if `alpha` or `margin` is not positive; on calling, if logits are not
            `(n, classes)` or labels are not class indices, (on a CPU) at least two different ones.

    Reference:
        Serrurier et al. (2021), arXiv:2006.06520, the loss for several classes. Here the hinge is
        a mean over classes, too, so that `alpha` has the same weight for any number of them.

    Example:
        >>> loss = HingeKRMulticlass(alpha=4.0, margin=1.0)
        >>> loss(torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 1]))
        tensor(1.)
    """

    kind = "hinge-kr-multiclass"
    compares_classes = True

    alpha: float = 10.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, positive, "alpha", "margin")

    def each(self, inputs: LossInputs) -> Tensor:
        """Both terms of each image, the mean over the classes."""
        logits, labels = classification(inputs)
        first = one_hot(labels, logits.shape[1])
        counts = given_counts(inputs, logits.shape[1])
        inside = first.sum(0) if counts is None else counts
        images = inside.sum()
        present = (inside > 0) & (inside < images)
        if can_be_read(labels) and not bool(present.any()):
            raise ValueError(
                "`labels` must hold at least two classes in each batch; got one alone."
            )
        exact = torch.promote_types(logits.dtype, torch.float32)
        terms = dual_terms(logits, first, inside.to(exact), images.to(exact))
        return (self.alpha * hinge(logits, first, self.margin) - terms).mean(1)
