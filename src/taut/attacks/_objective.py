"""What an attack may ask of a model: its margin, the slope of that, whether it errs."""

import copy
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@final
class Objective:
    """The margin an attacker raises, on a frozen copy of the model in eval mode.

    The copy keeps the caller's model as it was: no gradient is left in its parameters, no buffer
    moves, its mode stays. No parameter of the copy asks for a gradient, so that `taut.cached()`
    serves each weight once for the whole attack.

    Args:
        model: maps a batch of images to logits of at least two classes.

    Example:
        >>> objective = Objective(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        >>> objective.margin(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)).shape
        torch.Size([3])
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)

    def logits(self, images: Float[Tensor, "b *shape"]) -> Float[Tensor, "b classes"]:
        """Return the logits, after a look at their shape; a model may overwrite its input."""
        logits = self._model(images.clone())
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(
                "`model` must map a batch to logits of shape (b, classes) with 2 classes or more; "
                f"got {tuple(logits.shape)}."
            )
        return logits

    def broken(
        self, images: Float[Tensor, "b *shape"], labels: Int[Tensor, " b"]
    ) -> Bool[Tensor, " b"]:
        """Say which images are not predicted as their label."""
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

    def margin(
        self, images: Float[Tensor, "b *shape"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Best other logit minus the label's: positive where the attacker has clearly won.

        Clearly: by more than the logits' rounding, which differs with the size of a batch.
        """
        logits = self.logits(images)
        label = labels[:, None]
        others = logits.scatter(1, label, -torch.inf).amax(1)
        rounding = 16 * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(1)
        return others - logits.gather(1, label).squeeze(1) - rounding

    def slope(
        self, images: Float[Tensor, "b *shape"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b *shape"]]:
        """Return the margins and their gradients with respect to the images."""
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            margin = self.margin(leaf, labels)
            (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        return margin.detach(), gradient
