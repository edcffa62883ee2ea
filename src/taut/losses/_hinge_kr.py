"""The hinge Kantorovich-Rubinstein loss of a classifier of two classes."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.losses._inputs import (
    AbstractLoss,
    LossInputs,
    check_positive,
    dual_value,
    hinge,
    two_samples,
)


@final
@dataclass(frozen=True)
class HingeKR(AbstractLoss):
    r"""HKR for two classes: the Kantorovich-Rubinstein loss, plus `alpha` times a hinge.

    :math:`-\bigl(\operatorname{mean}_{s_i=1} f(x_i) - \operatorname{mean}_{s_i=-1} f(x_i)\bigr)
    + \alpha \operatorname{mean}_i \max(0, m - s_i f(x_i))` with :math:`s_i = 1` for label 1, else
    -1. Scores f are of shape `(n,)` or `(n, 1)`, labels 1 and 0, or 1 and -1.

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

    alpha: float = 10.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, margin=self.margin)

    def value(self, inputs: LossInputs) -> Tensor:
        """The loss of the batch."""
        scores, first = two_samples(inputs)
        return self.alpha * hinge(scores, first, self.margin) - dual_value(scores, first)
