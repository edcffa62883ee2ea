"""Clean and certified accuracy of a model on a split, cheap enough for every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.data import Split
from taut.lipschitz import lipschitz_bound
from taut.parametrizations import cached

# Activations that stay in the CPU's cache; a GPU wants large batches.
_BATCH = {"cpu": 125, "cuda": 2000}


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
    size = _BATCH[split.images.device.type]
    with torch.no_grad(), cached():
        bound = float(lipschitz_bound(model, tuple(split.images.shape[1:])))
        logits = torch.cat(
            [
                model(split.float_images(slice(start, start + size)))
                for start in range(0, len(split), size)
            ]
        )
    radius = _radius(logits, split.labels, bound)
    correct = logits.argmax(1) == split.labels
    return Evaluation(
        clean_accuracy=float(correct.double().mean()),
        certified_accuracy={
            text: float((radius > float(Fraction(text))).double().mean()) for text in eps
        },
        bound=bound,
    )


def _radius(logits: Tensor, labels: Tensor, bound: float) -> Float[Tensor, "b"]:
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return ((true - others) / (2**0.5 * bound)).clamp(min=0).double()
