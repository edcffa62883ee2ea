"""The multi-class hinge loss of the founding paper."""

import math
from typing import final

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def multi_margin(
    logits: Float[Tensor, "b classes"], labels: Int[Tensor, "b"], *, eps_train: float
) -> Float[Tensor, ""]:
    r"""Multi-class hinge loss, zero once every image is certified at radius `eps_train`.

    :math:`\frac1{bc} \sum_i \sum_{j \ne y_i} \max(0, \sqrt2\,\varepsilon - z_{y_i} + z_j)`.

    A 1-Lipschitz classifier is certified at :math:`\varepsilon` where the margin exceeds
    :math:`\sqrt2\,\varepsilon`: the loss pushes exactly the margins that fall short.

    Args:
        logits: outputs of the model, each row the scores of one image.
        labels: true classes.
        eps_train: the l2 radius aimed at, in the units of the images.

    Returns:
        The mean over the batch.

    Raises:
        ValueError: if `eps_train` is not positive.

    Reference:
        Li et al. (2019), *Preventing Gradient Attenuation in Lipschitz Constrained Convolutional
        Networks*, section 5; arXiv:1911.00937. Divided by the number of classes, as in torch.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
        >>> multi_margin(logits, torch.tensor([0, 0]), eps_train=1.0)
        tensor(0.3536)
    """
    return F.multi_margin_loss(logits, labels, margin=math.sqrt(2) * _positive(eps_train))


@final
class MultiMargin(nn.Module):
    """`multi_margin` as a module.

    Args:
        eps_train: the l2 radius aimed at, in the units of the images.

    Example:
        >>> MultiMargin(eps_train=1.5)
        MultiMargin(eps_train=1.5)
    """

    def __init__(self, *, eps_train: float) -> None:
        super().__init__()
        self.eps_train = _positive(eps_train)

    def forward(
        self, logits: Float[Tensor, "b classes"], labels: Int[Tensor, "b"]
    ) -> Float[Tensor, ""]:
        """Mean loss of a batch."""
        return multi_margin(logits, labels, eps_train=self.eps_train)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"eps_train={self.eps_train}"


def _positive(eps_train: float) -> float:
    if not (eps_train > 0 and math.isfinite(eps_train)):
        raise ValueError(f"`eps_train` must be a positive number; got {eps_train}.")
    return eps_train
