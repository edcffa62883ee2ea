"""The hinge Kantorovich-Rubinstein loss of a classifier, of two classes or of several."""

from typing import final

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from taut.losses._two_samples import as_booleans, dual_value, hinge, positive


def hinge_kr(
    scores: Float[Tensor, "b"],
    labels: Int[Tensor, "b"] | Bool[Tensor, "b"],
    *,
    alpha: float,
    margin: float,
) -> Float[Tensor, ""]:
    r"""HKR: the Kantorovich-Rubinstein loss, plus `alpha` times a hinge.

    :math:`-\bigl(\operatorname{mean}_{y_i=1} f(x_i) - \operatorname{mean}_{y_i=0} f(x_i)\bigr)
    + \alpha \operatorname{mean}_i \max(0, m - s_i f(x_i))` with :math:`s_i = \pm 1` for
    :math:`y_i = 1, 0`.

    A critic alone is no classifier: its sign need not tell the classes apart, its level is free.
    The hinge sets the level and asks for the margin m, the Kantorovich-Rubinstein term for scores
    as far apart as the Lipschitz constant allows: for a 1-Lipschitz f the sign of f is certified
    at radius abs(f).

    Args:
        scores: outputs f; the sign is the class.
        labels: 0 or 1.
        alpha: weight of the hinge; > 0.
        margin: m; > 0.

    Returns:
        The loss of the batch.

    Raises:
        ValueError: if `alpha` or `margin` is not positive, or `labels` has other values than 0 and
            1, or only one of them.

    Reference:
        Serrurier et al. (2021), *Achieving robustness in classification using optimal transport
        with hinge regularization*, arXiv:2006.06520.

    Example:
        >>> scores, labels = torch.tensor([2.0, 0.5]), torch.tensor([1, 0])
        >>> hinge_kr(scores, labels, alpha=10.0, margin=1.0)
        tensor(6.)
    """
    positive("alpha", alpha)
    positive("margin", margin)
    first = as_booleans(labels)
    return alpha * hinge(scores, first, margin) - dual_value(scores, first)


def hinge_kr_multiclass(
    logits: Float[Tensor, "b classes"],
    labels: Int[Tensor, "b"],
    *,
    alpha: float,
    margin: float,
) -> Float[Tensor, ""]:
    r"""Mean over classes of the hinge Kantorovich-Rubinstein loss of one class against the rest.

    With each logit as a critic between its class and all others,
    :math:`\frac1c \sum_k -\bigl(\operatorname{mean}_{y_i=k} f_k(x_i) -
    \operatorname{mean}_{y_i \ne k} f_k(x_i)\bigr)
    + \alpha \operatorname{mean}_{i,k} \max(0, m - s_{ik} f_k(x_i))`,
    :math:`s_{ik} = 1` for :math:`y_i = k`, else -1. A class that the batch does not hold (or that
    is all it holds) has no Kantorovich-Rubinstein term there; the hinge counts all.

    Args:
        logits: outputs f of the model, one column a class.
        labels: true classes.
        alpha: weight of the hinge; > 0.
        margin: m; > 0.

    Returns:
        The loss of the batch.

    Raises:
        ValueError: if `alpha` or `margin` is not positive, or all labels of the batch are the same.

    Reference:
        Serrurier et al. (2021), arXiv:2006.06520, the loss for several classes. Here the hinge is
        a mean over classes, too, so that `alpha` weighs the same for any number of them.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 1])
        >>> hinge_kr_multiclass(logits, labels, alpha=4.0, margin=1.0)
        tensor(1.)
    """
    positive("alpha", alpha)
    positive("margin", margin)
    first = F.one_hot(labels, logits.shape[1]).bool()
    here = first.any(0) & ~first.all(0)
    if not bool(here.any()):
        raise ValueError("`labels` must hold at least two classes in each batch; got one alone.")
    values = dual_value(logits[:, here], first[:, here])
    return alpha * hinge(logits, first, margin) - values.sum() / logits.shape[1]


class _AbstractHingeKR(nn.Module):
    """The settings of the loss."""

    def __init__(self, *, alpha: float, margin: float) -> None:
        super().__init__()
        self.alpha = positive("alpha", alpha)
        self.margin = positive("margin", margin)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"alpha={self.alpha}, margin={self.margin}"


@final
class HingeKR(_AbstractHingeKR):
    """`hinge_kr` as a module.

    Args:
        alpha: weight of the hinge; > 0.
        margin: that the hinge asks for; > 0.

    Example:
        >>> HingeKR(alpha=10.0, margin=1.0)
        HingeKR(alpha=10.0, margin=1.0)
    """

    def forward(
        self, scores: Float[Tensor, "b"], labels: Int[Tensor, "b"] | Bool[Tensor, "b"]
    ) -> Float[Tensor, ""]:
        """Loss of a batch."""
        return hinge_kr(scores, labels, alpha=self.alpha, margin=self.margin)


@final
class HingeKRMulticlass(_AbstractHingeKR):
    """`hinge_kr_multiclass` as a module.

    Args:
        alpha: weight of the hinge; > 0.
        margin: that the hinge asks for; > 0.

    Example:
        >>> HingeKRMulticlass(alpha=10.0, margin=1.0)
        HingeKRMulticlass(alpha=10.0, margin=1.0)
    """

    def forward(
        self, logits: Float[Tensor, "b classes"], labels: Int[Tensor, "b"]
    ) -> Float[Tensor, ""]:
        """Loss of a batch."""
        return hinge_kr_multiclass(logits, labels, alpha=self.alpha, margin=self.margin)
