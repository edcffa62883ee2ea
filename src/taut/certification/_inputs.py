"""What is certified: images that a model is fed, and labels of its classes."""

from typing import Any

import torch
from torch import Tensor, nn

from taut._arguments import batch_of, check_tensor
from taut.certification._radius import class_logits
from taut.linalg.precision import exact_float32
from taut.parametrizations import cached
from taut.program import check_agreement

__all__ = [
    "check_images",
    "check_labels",
    "check_one_answer",
    "checked_shape",
    "hold_against_model",
    "like_of",
    "numbers_of",
]


def check_images(
    images: Any, shape: tuple[int, ...], like: Tensor, arithmetic: str = "real"
) -> None:
    """Refuse what is no batch of finite images in the precision of the model."""
    check_tensor("images", images)
    if images.dtype != like.dtype or not images.is_floating_point():
        raise ValueError(
            f"`images` must be {like.dtype} like the model, in the units it was trained on; got "
            f"{images.dtype}."
        )
    if arithmetic == "float32" and images.dtype == torch.float64:
        raise ValueError(
            "`images` must not be float64 for arithmetic='float32', which rounds them."
        )
    if images.dim() < 1 or tuple(images.shape[1:]) != shape:
        raise ValueError(f"`images` must be {batch_of(shape)}; got {tuple(images.shape)}.")
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image; got none.")
    bad = (~images.flatten(1).isfinite().all(1)).nonzero() if images.dim() > 1 else []
    if len(bad):
        raise ValueError(f"`images` must be finite; image {int(bad[0])} holds NaN or Inf.")


def checked_shape(model: nn.Module, images: Any, arithmetic: str) -> tuple[int, ...]:
    """The shape of one image, of a batch that is checked to be one for the model."""
    shape = tuple(getattr(images, "shape", ()))[1:]
    check_images(images, shape, like_of(model, images), arithmetic)
    return shape


def check_labels(labels: Any, count: int) -> None:
    """Refuse what is not one class an image."""
    check_tensor("labels", labels)
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(
            f"`labels` must be {count} int64 classes, one per image; got "
            f"{tuple(labels.shape)} of {labels.dtype}."
        )


def check_one_answer(outputs: tuple[int, ...]) -> None:
    """Refuse a model that answers at many places of an image."""
    if len(outputs) > 1:
        raise ValueError(
            f"`model` must give one answer an image; its outputs are {outputs}: see taut.predict."
        )


def numbers_of(labels: Tensor, outputs: tuple[int, ...]) -> Tensor:
    """The labels counted from 0; a model with one output may have labels -1 and +1.

    Args:
        labels: of images.
        outputs: shape of what the model gives for one image.

    Raises:
        ValueError: if there are others beside -1 and +1.

    Example:
        >>> numbers_of(torch.tensor([-1, 1, 1]), (1,))
        tensor([0, 1, 1])
    """
    if outputs not in ((), (1,)) or not (labels == -1).any():
        return labels
    if not (labels.abs() == 1).all():
        raise ValueError(
            "`labels` of a model with one output must be 0 and 1, or -1 and +1; got "
            f"{labels.min()} to {labels.max()} with others."
        )
    return (labels + 1) // 2


def like_of(model: nn.Module, images: Any) -> Any:
    """A tensor in the precision and on the device of the model; the images where it has none."""
    return next(iter(model.parameters()), images)


def hold_against_model(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Refuse to certify images on which the model does something else than its program."""
    device = like_of(model, images).device
    with torch.no_grad(), cached(), exact_float32(device):
        outputs = model(images.to(device, copy=True))
        check_agreement(class_logits(outputs), logits, images)
