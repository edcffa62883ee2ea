"""The hinge Kantorovich-Rubinstein loss of a classifier of two classes."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut._arguments import check_fields, positive
from taut.losses._inputs import (
    AbstractImageLoss,
    LossInputs,
    dual_terms,
    hinge,
    two_samples,
)


@final
@dataclass(frozen=True)
class HingeKR(AbstractImageLoss):
    r"""HKR for two classes: the Kantorovich-Rubinstein loss, plus `alpha` times a hinge.

    :math:`-\bigl(\operatorname{mean}_{s_i=1} f(x_i) - \operatorname{mean}_{s_i=-1} f(x_i)\bigr)
    + \alpha \operatorname{mean}_i \max(0, m - s_i f(x_i))` with :math:`s_i = 1` for label 1, else
    -1. Scores f are of shape `(n,)` or `(n, 1)`, labels 1 and 0, or 1 and -1. Of logits `(n, 2)`
    the score is :math:`(z_1 - z_0) / \sqrt 2`, which is as Lipschitz as they are.

    A critic alone is no classifier: its sign need not separate the classes, and its level is free.
    The hinge sets the level and asks for the margin m, the Kantorovich-Rubinstein term for scores
    as far apart as the Lipschitz constant allows: for a 1-Lipschitz f the sign of f is certified
    at radius abs(f).

    Args:
        alpha: weight of the hinge; > 0.
        margin: m; > 0.

    Raises:
        ValueError: if `alpha` or `margin` is not positive; on calling, if a shape is another one,
            or (on a CPU) labels are others or all the same.

    Reference:
        Serrurier et al. (2021), *Achieving robustness in classification using optimal transport
        with hinge regularization*, arXiv:2006.06520.

    Example:
        >>> loss = HingeKR(alpha=10.0, margin=1.0)
        >>> loss(torch.tensor([[2.0], [0.5]]), torch.tensor([1, -1]))
        tensor(6.)
    """

    kind = "hinge-kr"
    compares_classes = True

    alpha: float = 10.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, positive, "alpha", "margin")

    def each(self, inputs: LossInputs) -> Tensor:
        """Both terms of each image."""
        scores, first, *counts = two_samples(inputs)
        lacking = hinge(scores, first, self.margin)
        return self.alpha * lacking - dual_terms(scores, first, *counts)
