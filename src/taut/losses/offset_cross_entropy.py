"""Cross-entropy that asks for a margin: offset first, temperature after."""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def offset_cross_entropy(
    logits: Float[Tensor, "b classes"],
    labels: Int[Tensor, "b"],
    *,
    offset: float,
    temperature: float,
) -> Float[Tensor, ""]:
    r"""Cross-entropy of :math:`(z - \text{offset} \cdot e_y) / \text{temperature}`.

    The true class must win by `offset` before it counts as winning: with
    :math:`\text{offset} = \sqrt2\,\varepsilon` the loss aims at the certified radius
    :math:`\varepsilon` of a 1-Lipschitz classifier. A low temperature makes up for logits that
    cannot grow without bound.

    Args:
        logits: outputs of the model, each row the scores of one image.
        labels: true classes.
        offset: subtracted from the logit of the true class; >= 0.
        temperature: divides all logits after that; > 0.

    Returns:
        The mean over the batch.

    Raises:
        ValueError: if `offset` is negative or `temperature` is not positive.

    Reference:
        The offset is that of Prach and Lampert (2022), *Almost-Orthogonal Layers for Efficient
        General-Purpose Lipschitz Networks*, arXiv:2208.03160; there the loss is also multiplied
        by the temperature, which an optimiser that ignores scale, as Adam, does not see.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> offset_cross_entropy(logits, torch.tensor([0]), offset=2.0, temperature=0.5)
        tensor(0.6931)
    """
    _check(offset, temperature)
    true_class = F.one_hot(labels, logits.shape[-1])
    lowered = torch.sub(logits, true_class.to(logits.dtype), alpha=offset)
    return F.cross_entropy(lowered / temperature, labels)


@final
class OffsetCrossEntropy(nn.Module):
    """`offset_cross_entropy` as a module.

    Args:
        offset: subtracted from the logit of the true class; >= 0.
        temperature: divides all logits after that; > 0.

    Example:
        >>> OffsetCrossEntropy(offset=2.2, temperature=0.35)
        OffsetCrossEntropy(offset=2.2, temperature=0.35)
    """

    def __init__(self, *, offset: float, temperature: float) -> None:
        super().__init__()
        _check(offset, temperature)
        self.offset = offset
        self.temperature = temperature

    def forward(
        self, logits: Float[Tensor, "b classes"], labels: Int[Tensor, "b"]
    ) -> Float[Tensor, ""]:
        """Mean loss of a batch."""
        return offset_cross_entropy(
            logits, labels, offset=self.offset, temperature=self.temperature
        )

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"offset={self.offset}, temperature={self.temperature}"


def _check(offset: float, temperature: float) -> None:
    if not (offset >= 0 and math.isfinite(offset)):
        raise ValueError(f"`offset` must be a number >= 0; got {offset}.")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"`temperature` must be a positive number; got {temperature}.")
