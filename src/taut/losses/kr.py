"""The Kantorovich-Rubinstein loss of a critic."""

from typing import final

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from taut.losses._two_samples import as_booleans, dual_value


def kr(
    scores: Float[Tensor, "b"], labels: Int[Tensor, "b"] | Bool[Tensor, "b"]
) -> Float[Tensor, ""]:
    r"""Minus the Kantorovich-Rubinstein value of a critic on two samples.

    :math:`-\bigl(\operatorname{mean}_{y_i=1} f(x_i) - \operatorname{mean}_{y_i=0} f(x_i)\bigr)`.

    Guarantee: for an L-Lipschitz f, minus the loss is at most L times the Wasserstein-1 distance
        (in l2) between the two samples; the best f reaches it.

    Args:
        scores: outputs f of the critic.
        labels: 1 for the sample whose scores are to be high, 0 for the other.

    Returns:
        The loss; lower is farther apart.

    Raises:
        ValueError: if `labels` has other values than 0 and 1, or only one of them.

    Reference:
        Villani (2009), *Optimal Transport: Old and New*, theorem 5.10 and remark 6.5.

    Example:
        >>> kr(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1, 0, 0]))
        tensor(-2.5000)
    """
    return -dual_value(scores, as_booleans(labels))


@final
class KR(nn.Module):
    """`kr` as a module.

    Example:
        >>> KR()(torch.tensor([3.0, 1.0]), torch.tensor([1, 0]))
        tensor(-2.)
    """

    def forward(
        self, scores: Float[Tensor, "b"], labels: Int[Tensor, "b"] | Bool[Tensor, "b"]
    ) -> Float[Tensor, ""]:
        """Loss of a batch."""
        return kr(scores, labels)
