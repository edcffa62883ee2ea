"""The Kantorovich-Rubinstein loss of a critic."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.losses._inputs import AbstractImageLoss, LossInputs, dual_terms, two_samples


@final
@dataclass(frozen=True)
class KR(AbstractImageLoss):
    r"""The negative Kantorovich-Rubinstein value of a critic on two samples.

    :math:`-\bigl(\operatorname{mean}_{y_i=1} f(x_i) - \operatorname{mean}_{y_i \ne 1} f(x_i)\bigr)`
    for scores f of shape `(n,)` or `(n, 1)` and labels 1 and 0, or 1 and -1. Of logits `(n, 2)` the
    score is :math:`(z_1 - z_0) / \sqrt 2`, which is as Lipschitz as they are.

    Guarantee: for an L-Lipschitz f, minus the loss is at most L times the Wasserstein-1 distance
        (in l2) between the two samples; the best f attains it.

    Raises:
        ValueError: on calling, if a shape is another one; on a CPU also if labels are others or all
            the same, which a GPU would have to be waited for to know.

    Reference:
        Villani (2009), *Optimal Transport: Old and New*, theorem 5.10 and remark 6.5.

    Example:
        >>> KR()(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1, 0, 0]))
        tensor(-2.5000)
    """

    kind = "kr"
    compares_classes = True

    def each(self, inputs: LossInputs) -> Tensor:
        """The negative score of each image, times its sign and its weight in the mean."""
        return -dual_terms(*two_samples(inputs))
