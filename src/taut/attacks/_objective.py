"""What an attack may ask of a model: its margin, the gradient of it, whether it errs."""

import copy
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from taut.attacks._geometry import per_image
from taut.certification import class_logits, numbers_of
from taut.linalg.rates import wide, wide_dtype

Batch = Float[Tensor, "b *shape"]
Labels = Int[Tensor, " b"]
Radii = Float[Tensor, " b"]


@final
class Objective:
    """The margin an attacker raises, on a frozen copy of the model in eval mode.

    The caller's model stays as it is: no gradient is left in its parameters, no buffer changes, its
    mode stays. No parameter of the copy requires a gradient, so that `taut.cached()` computes each
    weight once for the whole attack.

    Args:
        model: maps a batch of images to logits of at least two classes, or to one number f an
            image, whose logits are (0, f): class 1 where f > 0.
    """

    def __init__(self, model: nn.Module) -> None:
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ValueError("`model` must have its weights in memory; got one on the meta device.")
        self._model = copy.deepcopy(model).eval().requires_grad_(False)

    def logits(self, images: Batch) -> Float[Tensor, "b classes"]:
        """Return the logits, their shape checked; a model may overwrite its input."""
        try:
            logits = self._model(images.clone())
        except RuntimeError as error:
            places = [f"{p.dtype} on {p.device}" for p in self._model.parameters()]
            place = f"{images.dtype} on {images.device}"
            if place in places or not places:
                raise
            raise ValueError(
                f"`images` must be {places[0]} like the parameters of `model`; got {place}."
            ) from error
        if logits.ndim not in (1, 2) or len(logits) != len(images) or 0 in logits.shape[1:]:
            raise ValueError(
                "`model` must map a batch to logits of shape (b, classes), or to one number an "
                f"image; got {tuple(logits.shape)}."
            )
        return class_logits(logits)

    def numbers(self, labels: Tensor, images: Tensor) -> Tensor:
        """Return the labels from 0 on; those of a model with one output may be -1 and +1."""
        if not (labels < 0).any():
            return labels
        with torch.no_grad():
            return numbers_of(labels, tuple(self._model(images[:1].clone()).shape[1:]))

    def check_repeatable(self, images: Batch) -> None:
        """Refuse a model that draws random numbers: a success would be one of the draw."""
        with torch.no_grad():
            first, second = self.logits(images), self.logits(images)
        if bool(((first - second).abs() > 1e-3 * first.abs().amax(1, keepdim=True)).any()):
            raise ValueError(
                "`model` must give equal logits for equal images; got different ones in two runs, "
                "as of a model that draws random numbers."
            )

    def broken(self, images: Batch, labels: Labels) -> Bool[Tensor, " b"]:
        """Return which images are not predicted as their label."""
        with torch.no_grad():
            logits = self.logits(images)
        if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
            raise ValueError(
                f"`labels` must lie between 0 and {logits.shape[1] - 1}; got values from "
                f"{labels.min().item()} to {labels.max().item()}."
            )
        if bool(logits.isnan().any()):
            raise ValueError("`model` must give logits without NaN; got NaN.")
        return logits.argmax(1) != labels

    def margin(self, images: Batch, labels: Labels) -> Float[Tensor, " b"]:
        """Best other logit minus the label's, minus the rounding: positive if misclassified.

        The logits of an image round differently with the size of its batch. An image of positive
        margin is misclassified in any batch.
        """
        logits = self.logits(images)
        label = labels[:, None]
        others = logits.scatter(1, label, -torch.inf).amax(1)
        rounding = 16 * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(1)
        return others - logits.gather(1, label).squeeze(1) - rounding

    def misclassified(self, images: Batch, labels: Labels) -> Bool[Tensor, " b"]:
        """Return which images have a positive margin."""
        with torch.no_grad():
            return self.margin(images, labels) > 0

    def slope(self, images: Batch, labels: Labels) -> tuple[Float[Tensor, " b"], Batch]:
        """Return the margins and their gradients with respect to the images."""
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            margin = self.margin(leaf, labels)
            (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        return margin.detach(), gradient

    def bisect(self, images: Batch, labels: Labels, moved: Batch) -> Batch:
        """Bisect the segments from `images` to `moved` for the boundary, to a part in a million.

        Returns points of positive margin, or `moved` itself if none is met.
        """
        low = torch.zeros(len(images), dtype=wide_dtype(images.device), device=images.device)
        high = torch.ones_like(low)
        delta = wide(moved) - wide(images)
        nearest = moved
        for _ in range(20):
            middle = (low + high) / 2
            point = (wide(images) + per_image(middle, images) * delta).to(images.dtype)
            beyond = self.misclassified(point, labels)
            nearest = torch.where(per_image(beyond, images), point, nearest)
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        return nearest
