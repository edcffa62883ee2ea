"""Four attacks without a knob, one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from taut.attacks._base import AbstractAttack, check_counts
from taut.attacks._foreign import Logits, isolated, library, require
from taut.attacks._geometry import clip
from taut.attacks._objective import Objective

_SIDE = 5
"""Pixels that a side needs at least: the squares of the last attack start with a fifth of it."""


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(AbstractAttack):
    r"""APGD on the cross-entropy, targeted APGD, targeted FAB, and Square, each on what is left.

    The standard version in l2. The first three follow gradients of different losses, with steps
    that adapt; the last draws squares at random and sees the logits alone. None has to be tuned.

    Each part is that of torchattacks, searched in float32, but with the number of steps of the
    authors' code: the class of that name in torchattacks takes a tenth of them. The point that a
    part found is clipped and judged here before the next one runs.

    Args:
        steps: gradient steps of each of the first three, for each target.
        queries: of Square.
        seed: of the starts and squares; equal in every call.

    Raises:
        ValueError: if a number is not positive, the images are no squares of 5 pixels a side or
            more, or there are fewer than 4 classes: the loss of the second part takes the first
            four.
        ImportError: if torchattacks is not installed.

    Reference:
        Croce, Hein (2020), *Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks*, section 5; arXiv:2003.01690.

    Example:
        >>> AutoAttack()
        AutoAttack(steps=100, queries=5000, seed=0)
    """

    steps: int = 100
    queries: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would happen."""
        check_counts(steps=self.steps, queries=self.queries)
        require("torchattacks")

    def perturb(
        self,
        objective: Objective,
        images: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"],
        radius: Float64[Tensor, " b"],
    ) -> Float[Tensor, "b *shape"]:
        """Return, for each image, the misclassified point of the first part that found one."""
        with torch.no_grad():
            classes = objective.logits(images[:1]).shape[1]
        _check(images, classes)
        found = images.clone()
        active = torch.arange(len(images), device=images.device)
        with isolated(self.seed):
            for part in self._parts(Logits(objective, images), float(radius.max()), classes):
                moved = part(images[active].float(), labels[active]).detach()
                moved = clip(moved.to(images.dtype), images[active], radius[active])
                found[active] = moved
                with torch.no_grad():
                    active = active[objective.margin(moved, labels[active]) <= 0]
                if not len(active):
                    break
        return found

    def _parts(self, model: Logits, eps: float, classes: int) -> Iterator[Any]:
        """Build the attacks in their order."""
        torchattacks = library("torchattacks")
        given: dict[str, Any] = {"norm": "L2", "eps": eps, "seed": self.seed}
        yield torchattacks.APGD(model, **given, steps=self.steps, loss="ce")
        yield torchattacks.APGDT(model, **given, steps=self.steps, n_classes=classes)
        yield torchattacks.FAB(
            model, **given, steps=self.steps, multi_targeted=True, n_classes=classes
        )
        yield torchattacks.Square(model, **given, n_queries=self.queries)


def _check(images: Tensor, classes: int) -> None:
    """Refuse what a part would fail on."""
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[2] < _SIDE:
        raise ValueError(
            f"`images` must be (b, channels, n, n) with n >= {_SIDE} for AutoAttack; got "
            f"{tuple(images.shape)}."
        )
    if classes < 4:
        raise ValueError(f"`model` must have 4 classes or more for AutoAttack; got {classes}.")
