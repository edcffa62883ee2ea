"""What a loss is called with, and its checks."""

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor, distributed

from taut._arguments import check_tensor, is_number, unit_share, whole
from taut._torch_private import inside_transform
from taut.program import LipschitzBound

_REDUCTIONS = ("none", "sum", "mean")


@final
@dataclass(frozen=True, eq=False)
class LossInputs:
    """The arguments of a loss: logits, labels, bound and last layer.

    Logits and head in half precision become float32.

    Args:
        logits: outputs of the model, one row per image; for a critic one score per image.
        labels: one per image; for losses that are a mean over images also probabilities of the
            classes, floating point and `(n, classes)`, as mixup has them.
        bound: Lipschitz constant of the model, or of its features where `head` is given, for
            losses that use it; left out, 1.
        head: weight of the last layer, `(classes, features)`, for losses that use it.
        counts: how many images of each class the whole batch has, of :func:`label_counts`, where
            this is a part of it; for losses that compare classes.
        progress: share of the training that is done, from 0 to 1, for losses that change.

    Raises:
        ValueError: if one is of another type, or a number out of its range.
    """

    logits: Tensor
    labels: Tensor
    bound: float | LipschitzBound | Tensor | None = None
    head: Tensor | None = None
    counts: Tensor | None = None
    progress: float | None = None

    def __post_init__(self) -> None:
        check_tensor("labels", self.labels)
        object.__setattr__(self, "logits", _precise("logits", self.logits))
        _ = self.constant
        if self.head is not None:
            object.__setattr__(self, "head", _precise("head", self.head))
        if self.counts is not None:
            check_tensor("counts", self.counts)
        if self.progress is not None:
            unit_share("progress", self.progress)

    @property
    def constant(self) -> float | Tensor:
        """The bound, checked; 1 if there is none."""
        bound = self.bound.value if isinstance(self.bound, LipschitzBound) else self.bound
        if bound is None:
            return 1.0
        number = bound
        if isinstance(bound, Tensor):
            number = math.nan if bound.numel() != 1 else 0.0
            if bound.numel() == 1 and can_be_read(bound):
                number = bound.detach().item()
        if not (is_number(number) and 0 <= number <= sys.float_info.max):
            raise ValueError(f"`bound` must be one finite number >= 0; got {bound}.")
        return bound.reshape(()) if isinstance(bound, Tensor) else float(bound)


def _precise(name: str, values: Tensor) -> Tensor:
    """Numbers in single precision or a higher one."""
    check_tensor(name, values)
    if not values.is_floating_point():
        raise ValueError(f"`{name}` must be of a floating-point dtype; got {values.dtype}.")
    return values.float() if values.element_size() < 4 else values


def label_counts(labels: Tensor, classes: int = 2) -> Tensor:
    """Number of images of each class, summed over all processes of `torch.distributed`.

    Losses that compare classes (:class:`KR`, :class:`HingeKR`, :class:`HingeKRMulticlass`) take
    them as `counts`. The loss of a part of a batch is such then that the mean over the parts,
    weighted by their sizes, is the loss of the whole batch; so is its gradient. That holds for
    parts on several processes, of which DDP and FSDP average the gradients, and for parts of which
    one process adds the gradients up. All processes must call it.

    Args:
        labels: those of this process, all parts together: class indices, or -1 and 1.
        classes: number of classes.

    Raises:
        ValueError: if `classes` is not a positive integer; on a CPU also if there is another class.

    Example:
        >>> label_counts(torch.tensor([1, -1, 1]))
        tensor([1, 2])
    """
    check_tensor("labels", labels)
    classes = whole("classes", classes)
    classes_of = labels.flatten().long()
    if labels.is_cpu and labels.numel():
        low, high = map(int, classes_of.aminmax())
        least = -1 if classes == 2 else 0
        if low < least or high >= classes:
            wrong = low if low < least else high
            raise ValueError(f"`labels` must be from {least} to {classes - 1}; got {wrong}.")
    classes_of = classes_of.clamp(min=0)
    counts = classes_of.new_zeros(classes)  # bincount would make a GPU wait
    counts.scatter_add_(0, classes_of, torch.ones_like(classes_of))
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(counts)
    return counts


class AbstractLoss(ABC):
    """A loss of a 1-Lipschitz model: a frozen dataclass whose fields are its settings.

    Call it with logits and labels, or with :class:`LossInputs`. A subclass states its `kind`, the
    name that recipes and the command line use, and defines :meth:`value`; one that has a value for
    each image derives from :class:`AbstractImageLoss` instead. `compares_classes` says that it uses
    `counts`, `uses_bound` that it uses `bound` and `head`.
    """

    kind: ClassVar[str]
    compares_classes: ClassVar[bool] = False
    uses_bound: ClassVar[bool] = False

    @abstractmethod
    def value(self, inputs: LossInputs) -> Tensor:
        """The loss of a batch, a scalar: a mean over its images."""

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image, `(n,)`, if it is defined.

        Raises:
            ValueError: by default.
        """
        kind = type(self).__name__
        raise ValueError(f"`reduction` must be 'mean' or 'sum' for {kind}; got 'none'.")

    @final
    def __call__(
        self,
        logits: LossInputs | Tensor,
        labels: Tensor | None = None,
        *,
        bound: float | LipschitzBound | Tensor | None = None,
        head: Tensor | None = None,
        reduction: str = "mean",
        counts: Tensor | None = None,
        progress: float | None = None,
    ) -> Tensor:
        """The loss of a batch; logits may be all inputs in one object.

        Args:
            logits: outputs of the model.
            labels: as in :class:`LossInputs`.
            bound: as in :class:`LossInputs`.
            head: as in :class:`LossInputs`.
            reduction: "mean" over the images, their "sum", or "none": one loss for each image.
            counts: as in :class:`LossInputs`.
            progress: as in :class:`LossInputs`.

        Raises:
            ValueError: if an input is wrong, or `reduction` is "none" for a loss that is no mean
                over images.
        """
        if reduction not in _REDUCTIONS:
            raise ValueError(f"`reduction` must be 'none', 'sum' or 'mean'; got {reduction!r}.")
        if isinstance(logits, LossInputs):
            inputs, beside = logits, (labels, bound, head, counts, progress)
            if any(one is not None for one in beside):
                raise ValueError("All arguments but `reduction` must be in the LossInputs object.")
        elif labels is None:
            raise ValueError("`labels` must be one label per image; got None.")
        else:
            inputs = LossInputs(logits, labels, bound, head, counts, progress)
        if isinstance(self, AbstractImageLoss) and _are_probabilities(inputs):
            each = self.expected(inputs)
            if reduction == "none":
                return each
            return each.mean() if reduction == "mean" else each.sum()
        if reduction == "none":
            return self.each(inputs)
        value = self.value(inputs)
        return value if reduction == "mean" else value * len(inputs.logits)


class AbstractImageLoss(AbstractLoss):
    r"""A loss that is a mean over images; subclasses define :meth:`each`.

    Labels may be probabilities q of the classes, unless the loss compares classes: then the loss of
    an image is the sum of :math:`q_k` times its loss for the label k, as mixup has it. That takes
    the memory of a batch with as many times more images as there are classes.
    """

    @abstractmethod
    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image, `(n,)`."""

    @final
    def value(self, inputs: LossInputs) -> Tensor:
        """The mean over the images."""
        return self.each(inputs).mean()

    @final
    def expected(self, inputs: LossInputs) -> Tensor:
        """The expected loss of each image under its label probabilities."""
        logits, probabilities = inputs.logits, inputs.labels
        if self.compares_classes:
            raise ValueError(
                f"`labels` must be one label per image for {type(self).__name__}, which compares "
                f"classes; got probabilities of shape {tuple(probabilities.shape)}."
            )
        if can_be_read(probabilities):
            total = probabilities.sum(1)
            if not bool((probabilities >= 0).all() & ((total - 1).abs() < 1e-3).all()):
                raise ValueError(
                    "`labels` must be probabilities, >= 0 and with the sum 1 in a row."
                )
        count, classes = logits.shape
        labels = torch.arange(classes, device=logits.device).repeat(count)
        repeated = logits.repeat_interleave(classes, 0)
        each = self.each(replace(inputs, logits=repeated, labels=labels)).view(count, classes)
        return (each.where(probabilities > 0, 0.0) * probabilities).sum(1)


def _are_probabilities(inputs: LossInputs) -> bool:
    """Whether labels are a probability for each class and image."""
    labels, logits = inputs.labels, inputs.logits
    same = labels.shape == logits.shape and labels.ndim == 2 and labels.shape[1] > 1
    return same and len(labels) > 0 and labels.is_floating_point()


def classification(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """Logits `(n, classes)` and class indices `(n,)`, checked."""
    logits, labels = inputs.logits, inputs.labels
    if logits.ndim != 2:
        raise ValueError(f"`logits` must be of shape (n, classes); got {tuple(logits.shape)}.")
    if not len(logits):
        raise ValueError(f"`logits` must hold at least one image; got {tuple(logits.shape)}.")
    if logits.shape[1] < 2:
        raise ValueError(f"`logits` must be of two classes or more; got {tuple(logits.shape)}.")
    allowed = f"`labels` must be class indices, integers of shape ({len(logits)},)"
    if labels.shape == logits.shape:
        raise ValueError(f"{allowed}; got one-hot rows: use labels.argmax(1).")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{allowed}; got {labels.dtype}: use labels.long().")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"{allowed}; got shape {tuple(labels.shape)}.")
    if len(labels) and can_be_read(labels):
        low, high = map(int, labels.long().aminmax())
        if low < 0 or high >= logits.shape[1]:
            wrong = low if low < 0 else high
            raise ValueError(f"`labels` must be from 0 to {logits.shape[1] - 1}; got {wrong}.")
    return logits, labels.long()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Where each label is, `(n, classes)`; unlike that of torch also under `torch.func.vmap`."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


def can_be_read(labels: Tensor) -> bool:
    """Whether values may be checked: on a GPU that would wait for all work."""
    return labels.is_cpu and not torch.compiler.is_compiling() and not inside_transform()


def given_counts(inputs: LossInputs, classes: int) -> Tensor | None:
    """The numbers of images of each class that a loss is given, checked."""
    counts = inputs.counts
    if counts is not None and counts.shape != (classes,):
        raise ValueError(f"`counts` must be of shape ({classes},); got {tuple(counts.shape)}.")
    return counts


def two_samples(inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores `(n,)`, whether each is of the first sample, and the sizes of that and of the batch.

    Logits are scores, or `(n, 2)`: of two classes, which are the labels. Labels are 0 and 1, or -1
    and 1.
    """
    logits, labels = inputs.logits, inputs.labels
    two = logits.ndim == 2 and logits.shape[1] == 2
    # As Lipschitz as the logits, and certified at the radius abs(score), as they are.
    scores = (logits[:, 1] - logits[:, 0]) * math.sqrt(0.5) if two else logits
    for values in (scores, labels):
        if values.ndim not in (1, 2) or values.shape[1:].numel() != 1 or len(values) != len(scores):
            raise ValueError(
                "`logits` must be one number per image, of shape (n,) or (n, 1), or two, (n, 2), "
                "and `labels` one; got "
                f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}."
            )
    if not len(scores):
        raise ValueError(f"`logits` must hold at least one image; got {tuple(scores.shape)}.")
    scores, labels = scores.flatten(), labels.flatten()
    first = labels == 1
    sizes = given_counts(inputs, 2)
    sizes = torch.stack([(~first).sum(), first.sum()]) if sizes is None else sizes
    outside, inside = sizes.to(torch.promote_types(scores.dtype, torch.float32))
    if not can_be_read(labels):
        return scores, first, inside, inside + outside
    if not bool((first | (labels == 0)).all() | (first | (labels == -1)).all()):
        raise ValueError(f"`labels` must be 0 and 1, or -1 and 1; got {labels.unique().tolist()}.")
    if not bool(inside) or not bool(outside):
        raise ValueError("`labels` must hold both classes in each batch; got one alone.")
    return scores, first, inside, inside + outside


def dual_terms(scores: Tensor, first: Tensor, inside: Tensor, images: Tensor) -> Tensor:
    """Terms of which the mean over all images is the mean score where `first` less that elsewhere.

    Column by column; of `images` there are `inside` where `first`. Terms are 0 if that is none or
    all of them.
    """
    outside = images - inside
    # Of weights, so that a division by 0 that is not chosen has no gradient.
    weights = torch.where(first, images / inside, -images / outside)
    return (scores * weights.where((inside > 0) & (outside > 0), 0.0)).to(scores.dtype)


def hinge(scores: Tensor, first: Tensor, margin: float) -> Tensor:
    """What scores lack to the margin, positive where `first` and negative elsewhere."""
    return (margin - torch.where(first, scores, -scores)).clamp(min=0)
