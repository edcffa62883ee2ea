"""Clean and certified accuracy of a model on a split, cheap enough for every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from taut.certification import certify
from taut.data import Split


@final
@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Args:
        clean_accuracy: share of images classified correctly.
        certified_accuracy: by radius as given, the share proved correct within that l2 distance.
        bound: proved Lipschitz bound of the model as it was.
    """

    clean_accuracy: float
    certified_accuracy: dict[str, float]
    bound: float


def evaluate(model: nn.Module, split: Split, eps: Sequence[str]) -> Evaluation:
    """Certifies every image of a split with the weights as they are.

    Args:
        model: maps float images in [0, 1] to logits; on the device of the split.
        split: images and labels.
        eps: radii, as numbers or fractions in text.

    Returns:
        The accuracies and the bound they rest on.

    Example:
        >>> split = taut.data.load("fashion-mnist-subset").test.take(20)
        >>> model = taut.models.small(split.images.shape[1:], 10)
        >>> result = evaluate(model, split, ("36/255",))
        >>> result.clean_accuracy >= result.certified_accuracy["36/255"]
        True
    """
    result = certify(model, split.float_images(), split.labels, eps)
    return Evaluation(
        clean_accuracy=result.clean_accuracy,
        certified_accuracy={text: result.certified_accuracy[text] for text in eps},
        bound=float(result.bound),
    )
