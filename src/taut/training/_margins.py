"""How training calls a loss: with the last layer, a bound of the rest, and mixed labels."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from taut.certification import prove
from taut.data import MixedLabels
from taut.losses import AbstractLoss
from taut.parametrizations import projected
from taut.program import head_of


@final
@dataclass(frozen=True)
class Margins:
    r"""By how much logits may move: where the rows of the last layer are, and a constant.

    Args:
        head: path of the last layer in the model, if the model ends in one with a matrix `weight`;
            None if it does not.
        bound: proven Lipschitz constant of the features that the layer reads; of the logits as one
            map, if there is no such layer.
        factors: what follows the layer multiplies each class by.

    Example:
        >>> margins_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)), (2,)).head
        '2'
    """

    head: str | None
    bound: float
    factors: Tensor | None = None

    def rows(self, model: nn.Module) -> Tensor | None:
        """The matrix of the last layer times the factors behind it, with its own gradient."""
        weight = None if self.head is None else _weight_at(model, self.head)
        if weight is None or self.factors is None:
            return weight
        return weight * self.factors.to(weight)[:, None]


def margins_of(model: nn.Module, input_shape: tuple[int, ...]) -> Margins:
    """The margins of a model with its tensors as they are; it is left as it is.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) as `taut.certify` does.
    """
    still = projected(model).eval()
    certificate = prove(still, input_shape, arithmetic="real")
    program = certificate.program
    head = head_of(program)
    if head is not None:
        path = next(node.path for node in program.nodes if node.name == head.node)
        with torch.no_grad():
            weight = _weight_at(still, path)
        # Only a layer that applies its weight as it is.
        if weight is not None:
            rows = weight.cpu().double() * head.factors[:, None]
            if torch.equal(rows, head.rows):
                bound = certificate.composed.constants[head.source]
                return Margins(path, bound, head.factors if head.roundings else None)
    return Margins(None, float(certificate.bound))


def _weight_at(model: nn.Module, path: str) -> Tensor | None:
    try:
        weight = model.get_submodule(path).weight
    except AttributeError:
        return None
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        return None
    return weight.flatten(1)


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
