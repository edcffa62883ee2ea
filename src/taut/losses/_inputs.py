"""What a loss is called with, and its checks."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from taut._torch_private import inside_transform


@final
@dataclass(frozen=True, eq=False)
class LossInputs:
    """All that a loss may depend on.

    Args:
        logits: outputs of the model, one row per image; for a critic one score per image.
        labels: one per image.
        bound: Lipschitz constant of the model, or of its features where `head` is given, for
            losses that use it; left out, 1.
        head: weight of the last layer, `(classes, features)`, for losses that use it.
        progress: share of the training that is done, from 0 to 1, for losses that change.
    """

    logits: Tensor
    labels: Tensor
    bound: float | Tensor | None = None
    head: Tensor | None = None
    progress: float | None = None


class AbstractLoss(ABC):
    """A loss of a 1-Lipschitz model: a frozen dataclass whose fields are its settings.

    Call it with logits and labels, or with :class:`LossInputs`. A subclass states its `kind`, the
    name that recipes and the command line use, and defines :meth:`value`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def value(self, inputs: LossInputs) -> Tensor:
        """The loss of a batch, a scalar."""

    @final
    def __call__(
        self,
        logits: LossInputs | Tensor,
        labels: Tensor | None = None,
        *,
        bound: float | Tensor | None = None,
        head: Tensor | None = None,
        progress: float | None = None,
    ) -> Tensor:
        """The loss of a batch; logits may be all inputs in one object."""
        if isinstance(logits, LossInputs):
            return self.value(logits)
        if labels is None:
            raise ValueError("`labels` must be one label per image; got None.")
        return self.value(LossInputs(logits, labels, bound, head, progress))


def classification(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """Logits `(n, classes)` and class indices `(n,)`, checked."""
    logits, labels = inputs.logits, inputs.labels
    if logits.ndim != 2:
        raise ValueError(f"`logits` must be of shape (n, classes); got {tuple(logits.shape)}.")
    if not len(logits):
        raise ValueError(f"`logits` must hold at least one image; got {tuple(logits.shape)}.")
    allowed = f"`labels` must be class indices, integers of shape ({len(logits)},)"
    if labels.shape == logits.shape and labels.shape[1] > 1:
        raise ValueError(f"{allowed}; got one-hot rows: use labels.argmax(1).")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{allowed}; got {labels.dtype}: use labels.long().")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"{allowed}; got shape {tuple(labels.shape)}.")
    if labels.is_cpu and not torch.compiler.is_compiling() and not inside_transform():
        # On a GPU the check would wait for all work; there torch's own losses stop the program.
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= logits.shape[1]:
            wrong = low if low < 0 else high
            raise ValueError(f"`labels` must be from 0 to {logits.shape[1] - 1}; got {wrong}.")
    return logits, labels.long()


def two_samples(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """Scores `(n,)` and whether each is of the first sample, from labels 0 and 1 or -1 and 1."""
    scores, labels = inputs.logits, inputs.labels
    for name, values in (("logits", scores), ("labels", labels)):
        if values.ndim not in (1, 2) or values.shape[1:].numel() != 1 or len(values) != len(scores):
            raise ValueError(
                f"`{name}` must be one number per image, of shape (n,) or (n, 1); got "
                f"logits of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)}."
            )
    if not len(scores):
        raise ValueError(f"`logits` must hold at least one image; got {tuple(scores.shape)}.")
    scores, labels = scores.flatten(), labels.flatten()
    first = labels == 1
    if not bool((first | (labels == 0)).all() | (first | (labels == -1)).all()):
        raise ValueError(f"`labels` must be 0 and 1, or -1 and 1; got {labels.unique().tolist()}.")
    if bool(first.all()) or not bool(first.any()):
        raise ValueError("`labels` must hold both classes in each batch; got one alone.")
    return scores, first


def dual_value(scores: Tensor, first: Tensor) -> Tensor:
    """Mean score where `first`, minus the mean elsewhere, column by column."""
    inside, outside = first.to(scores.dtype), (~first).to(scores.dtype)
    return (scores * inside).sum(0) / inside.sum(0) - (scores * outside).sum(0) / outside.sum(0)


def hinge(scores: Tensor, first: Tensor, margin: float) -> Tensor:
    """Mean of what scores lack to the margin, positive where `first` and negative elsewhere."""
    return (margin - torch.where(first, scores, -scores)).clamp(min=0).mean()


def check_positive(**settings: float) -> None:
    """Refuse a setting that is not a positive number."""
    for name, value in settings.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"`{name}` must be a positive number; got {value}.")
