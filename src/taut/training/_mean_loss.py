"""How training calls a loss, for mixed labels, too."""

from typing import Any

from torch import Tensor

from taut.data import MixedLabels
from taut.losses import AbstractLoss


def mean_loss(
    loss: AbstractLoss, logits: Tensor, labels: Tensor | MixedLabels, **known: Any
) -> Tensor:
    """The loss of a batch; of mixed images, the mean of those for both labels by their shares.

    Args:
        loss: of the recipe.
        logits: of the batch.
        labels: of the batch.
        known: what else the loss may use, by the names of `LossInputs`.
    """
    if isinstance(labels, Tensor):
        return loss(logits, labels, **known)
    first = loss(logits, labels.first, reduction="none", **known)
    second = loss(logits, labels.second, reduction="none", **known)
    return (labels.share * first + (1 - labels.share) * second).mean()
