"""Losses whose gradient in the logits has a proven bound."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taut._arguments import positive
from taut.linalg.rounding import up_divide
from taut.losses import AbstractLoss, MultiMargin, OffsetCrossEntropy
from taut.program import UP_SQRT2


@final
@dataclass(frozen=True)
class ClippedCrossEntropy:
    r"""Cross-entropy whose gradient in the logits of an image is scaled down to a norm.

    The gradient :math:`(p - q) / \text{temperature}`, with probability vectors p and q, becomes
    shorter as an image is learned, so that a bound of it is far from what most images have. Clipped
    to less, it is as long as its bound for most of them. The vector is as long as there are
    classes: unlike gradients of weights, it is there for each image anyway.

    Args:
        clip: largest norm of the gradient; > 0.
        temperature: divides all logits; > 0.

    Raises:
        ValueError: if a setting is out of range.

    Reference:
        Bethune, Massena, Boissin et al. (2024), arXiv:2305.16202: clipping of the loss gradient.

    Example:
        >>> logits = torch.zeros(1, 2, requires_grad=True)
        >>> ClippedCrossEntropy(0.1)(logits, torch.tensor([0])).sum().backward()
        >>> round(logits.grad.norm().item(), 4)
        0.1
    """

    clip: float
    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("clip", self.clip)
        positive("temperature", self.temperature)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A function of the logits with this gradient, for each image; its value says nothing."""
        with torch.no_grad():
            wanted = F.one_hot(labels, logits.shape[1])
            steps = (logits / self.temperature).softmax(1) - wanted
            steps = shortened(steps / self.temperature, self.clip)
        return (logits * steps).sum(1)


Loss = nn.Module | AbstractLoss | ClippedCrossEntropy
"""Those that have no known bound are refused by name."""


def loss_bound(loss: Loss) -> float:
    r"""A proven Lipschitz constant of a loss of one image, in the logits.

    Cross-entropy: the gradient is :math:`p - q` with two probability vectors, so its norm is at
    most :math:`\sqrt2`; a temperature divides it. Multi-class hinge with c classes: :math:`m/c`
    for each of the :math:`m \le c - 1` classes that are too close, in all
    :math:`\sqrt{m^2 + m} / c \le 1`.

    Args:
        loss: `torch.nn.CrossEntropyLoss` without class weights, :class:`ClippedCrossEntropy`,
            :class:`taut.losses.OffsetCrossEntropy` or :class:`taut.losses.MultiMargin`.

    Raises:
        ValueError: for any other loss; it is named.

    Example:
        >>> round(loss_bound(torch.nn.CrossEntropyLoss()), 6)
        1.414214
    """
    if type(loss) is nn.CrossEntropyLoss and loss.weight is None:
        return UP_SQRT2
    if isinstance(loss, ClippedCrossEntropy):
        return float(loss.clip)
    if isinstance(loss, OffsetCrossEntropy):
        return up_divide(UP_SQRT2, loss.temperature)
    if isinstance(loss, MultiMargin):
        return 1.0
    raise ValueError(
        "`loss` must be torch.nn.CrossEntropyLoss without class weights, ClippedCrossEntropy, "
        "OffsetCrossEntropy or MultiMargin, whose gradients have a proven bound; got "
        f"{type(loss).__name__}."
    )


def image_losses(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each image."""
    if isinstance(loss, ClippedCrossEntropy):
        return loss(logits, labels)
    if isinstance(loss, AbstractLoss):
        return loss(logits, labels, reduction="none")
    assert isinstance(loss, nn.CrossEntropyLoss)
    options = {"ignore_index": loss.ignore_index, "label_smoothing": loss.label_smoothing}
    return F.cross_entropy(logits, labels, reduction="none", **options)


def shortened(values: Tensor, norm: float) -> Tensor:
    """Samples of a batch, scaled down to a norm that is not above `norm` after rounding."""
    norms = torch.linalg.vector_norm(values.double().flatten(1), dim=1)
    limit = norm * (1 - 4 * torch.finfo(values.dtype).eps)
    factors = (limit / norms).clamp(max=1.0).to(values.dtype)
    return values * factors.view(-1, *[1] * (values.dim() - 1))
