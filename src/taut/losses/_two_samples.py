"""What the losses on two samples share."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def as_booleans(labels: Int[Tensor, "b"] | Bool[Tensor, "b"]) -> Bool[Tensor, "b"]:
    """Labels 0 and 1 as booleans; refused where they are others, or all the same.

    Example:
        >>> as_booleans(torch.tensor([1, 0]))
        tensor([ True, False])
    """
    chosen = labels.bool()
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"`labels` must be 0 or 1; got {labels.unique().tolist()}.")
    if bool(chosen.all()) or not bool(chosen.any()):
        raise ValueError("`labels` must hold both classes in each batch; got one alone.")
    return chosen


def dual_value(scores: Float[Tensor, "b *c"], first: Bool[Tensor, "b *c"]) -> Float[Tensor, "*c"]:
    """Mean score where `first`, minus the mean elsewhere, column by column.

    Example:
        >>> dual_value(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([True, False, False]))
        tensor(2.5000)
    """
    inside, outside = first.to(scores.dtype), (~first).to(scores.dtype)
    return (scores * inside).sum(0) / inside.sum(0) - (scores * outside).sum(0) / outside.sum(0)


def hinge(
    scores: Float[Tensor, "b *c"], first: Bool[Tensor, "b *c"], margin: float
) -> Float[Tensor, ""]:
    """Mean of what scores lack to the margin, on the side of zero where they belong.

    Example:
        >>> hinge(torch.tensor([2.0, 0.5]), torch.tensor([True, False]), 1.0)
        tensor(0.7500)
    """
    return (margin - torch.where(first, scores, -scores)).clamp(min=0).mean()


def positive(name: str, value: float) -> float:
    """The value of an argument, refused where it is not a positive number.

    Example:
        >>> positive("margin", 1.0)
        1.0
    """
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be a positive number; got {value}.")
    return value
