"""Attacks of other libraries: for each its options, and what it builds from them."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from taut.attacks._base import AbstractAttack, AbstractSmallestAttack, count, option, positive
from taut.attacks._geometry import clip, per_image
from taut.attacks._library import (
    ObjectiveModule,
    isolated,
    quiet_import,
    run_foolbox,
    starting_points,
)
from taut.attacks._objective import Batch, Labels, Objective, Radii


class AbstractFoolboxAttack(AbstractSmallestAttack):
    """A minimising attack of foolbox that draws nothing."""

    library: ClassVar[str | None] = "foolbox"

    @abstractmethod
    def _build(self, attacks: Any) -> Any:
        """Return the attack of `foolbox.attacks` with these options."""

    def perturb(self, objective: Objective, images: Batch, labels: Labels, radius: Radii) -> Batch:
        """Return the nearest misclassified point met, at whatever distance."""
        return run_foolbox(self._build(quiet_import("foolbox").attacks), objective, images, labels)


class AbstractFoolboxWalk(AbstractSmallestAttack):
    """An attack of foolbox that asks for classes only and walks from a misclassified point."""

    sees: ClassVar[str] = "classes"
    library: ClassVar[str | None] = "foolbox"
    slow: ClassVar[bool] = True
    seed: int

    @abstractmethod
    def _build(self, attacks: Any) -> Any:
        """Return the attack of `foolbox.attacks` with these options."""

    def _starter(self, attacks: Any) -> Any:
        """Return an attack to start from where it succeeds, or None."""

    def perturb(self, objective: Objective, images: Batch, labels: Labels, radius: Radii) -> Batch:
        """Return the end of the walk; the image itself if no start was found."""
        attacks = quiet_import("foolbox").attacks
        points = starting_points(objective, images, labels, self.seed)
        if (starter := self._starter(attacks)) is not None:
            first = run_foolbox(starter, objective, images, labels, self.seed)
            points = torch.where(
                per_image(objective.misclassified(first, labels), images), first, points
            )
        ready = objective.misclassified(points, labels)
        if ready.any():
            given = (objective, images[ready], labels[ready], self.seed)
            points[ready] = run_foolbox(self._build(attacks), *given, starting_points=points[ready])
        return points


@final
@dataclass(frozen=True, kw_only=True)
class DeepFool(AbstractFoolboxAttack):
    r"""DeepFool: steps to the nearest boundary of the linearised logits; quick.

    Exact on linear models; on curved ones it stops at the first error, not at the nearest one. The
    way back to the image is bisected, so that overshooting costs nothing.

    Args:
        steps: linearisations at most.
        overshoot: share of each step by which it is lengthened.

    Reference:
        Moosavi-Dezfooli, Fawzi, Frossard (2016), *DeepFool: a simple and accurate method to fool
        deep neural networks*, algorithm 2; arXiv:1511.04599.

    Example:
        >>> DeepFool(steps=20)
        DeepFool(steps=20, overshoot=0.02)
    """

    kind: ClassVar[str] = "deepfool"
    steps: int = count(50)
    overshoot: float = option(0.02, "not be negative", lambda overshoot: overshoot >= 0)

    def _build(self, attacks: Any) -> Any:
        return attacks.L2DeepFoolAttack(steps=self.steps, overshoot=self.overshoot)


@final
@dataclass(frozen=True, kw_only=True)
class CarliniWagner(AbstractFoolboxAttack):
    r"""Carlini-Wagner: minimises distance plus weighted margin; slow, finds small distances.

    Minimises :math:`\lVert x' - x\rVert_2^2 + c \max(0, \text{margin})` with
    :math:`x' = (1 + \tanh w) / 2`, which keeps the box, and searches the weight c for each image.

    Args:
        steps: of Adam, for each weight.
        step_size: of Adam, in w; large, since black and white pixels lie far out in w.
        searches: weights tried for each image.
        initial_const: the first weight. The best one is about the distance to the boundary, times
            sqrt(2), for a model that preserves the norm of its gradients; hence not the 1e-3 of the
            authors' code, which suits unconstrained models.

    Reference:
        Carlini, Wagner (2017), *Towards Evaluating the Robustness of Neural Networks*, section
        VI.A; arXiv:1608.04644.

    Example:
        >>> CarliniWagner(steps=100).searches
        6
    """

    kind: ClassVar[str] = "carlini-wagner"
    steps: int = count(500)
    step_size: float = positive(0.05)
    searches: int = count(6)
    initial_const: float = positive(1.0)

    def _build(self, attacks: Any) -> Any:
        return attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.searches,
            steps=self.steps,
            stepsize=self.step_size,
            initial_const=self.initial_const,
        )


@final
@dataclass(frozen=True, kw_only=True)
class BoundaryAttack(AbstractFoolboxWalk):
    r"""Boundary attack: a random walk along the decision boundary; slow, uses no gradients.

    Departure from the paper: each walk starts on the way to the nearest misclassified one of some
    noise images and of the other images of the batch, not from noise alone, which often looks like
    one class to a model. The images of a batch share their random directions.

    Args:
        steps: of the walk.
        seed: of the walk; equal in every call.

    Reference:
        Brendel, Rauber, Bethge (2018), *Decision-Based Adversarial Attacks: Reliable Attacks
        Against Black-Box Machine Learning Models*, algorithm 1; arXiv:1712.04248.

    Example:
        >>> BoundaryAttack(steps=1000)
        BoundaryAttack(steps=1000, seed=0)
    """

    kind: ClassVar[str] = "boundary"
    steps: int = count(25000)
    seed: int = 0

    def _build(self, attacks: Any) -> Any:
        return attacks.BoundaryAttack(steps=self.steps)


@final
@dataclass(frozen=True, kw_only=True)
class PointwiseAttack(AbstractFoolboxWalk):
    r"""Pointwise attack: salt-and-pepper noise, reset pixel by pixel; weak in l2.

    Where salt and pepper change no answer, it starts where `BoundaryAttack` does.

    Args:
        steps: amounts of salt and pepper tried.
        seed: of the noise and of the order of the pixels; equal in every call.

    Reference:
        Schott, Rauber, Bethge, Brendel (2019), *Towards the first adversarially robust neural
        network model on MNIST*, section 5; arXiv:1805.09190.

    Example:
        >>> PointwiseAttack()
        PointwiseAttack(steps=1000, seed=0)
    """

    kind: ClassVar[str] = "pointwise"
    steps: int = count(1000)
    seed: int = 0

    def _build(self, attacks: Any) -> Any:
        return attacks.PointwiseAttack()

    def _starter(self, attacks: Any) -> Any:
        return attacks.SaltAndPepperNoiseAttack(steps=self.steps)


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(AbstractAttack):
    r"""AutoAttack: four attacks without parameters, each on the images that survive.

    APGD on the cross-entropy, targeted APGD, targeted FAB, and Square: the standard version in l2.
    The first three follow gradients of different losses, with steps that adapt; the last draws
    squares at random and sees the logits only. It needs square images of 5 pixels a side or more,
    and 4 classes or more: the loss of the second part takes the first four.

    The parts are those of torchattacks, searched in float32, with the number of steps of the
    authors' code: the class AutoAttack of torchattacks takes a tenth of them. The point that a
    part found is clipped and judged before the next one runs.

    Args:
        steps: gradient steps of each of the first three, for each target.
        queries: of Square.
        seed: of the starts and squares; equal in every call.

    Reference:
        Croce, Hein (2020), *Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks*, section 5; arXiv:2003.01690.

    Example:
        >>> AutoAttack()
        AutoAttack(steps=100, queries=5000, seed=0)
    """

    kind: ClassVar[str] = "autoattack"
    sees: ClassVar[str] = "gradients, then logits"
    library: ClassVar[str | None] = "torchattacks"
    steps: int = count(100)
    queries: int = count(5000)
    seed: int = 0

    def perturb(self, objective: Objective, images: Batch, labels: Labels, radius: Radii) -> Batch:
        """Return, for each image, the misclassified point of the first attack that found one."""
        with torch.no_grad():
            classes = objective.logits(images[:1]).shape[1]
        if images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[2] < 5:
            # the squares of the last part start with a fifth of a side
            raise ValueError(
                "`images` must be (b, channels, n, n) with n >= 5 for AutoAttack; got "
                f"{tuple(images.shape)}."
            )
        if classes < 4:
            raise ValueError(f"`model` must have 4 classes or more for AutoAttack; got {classes}.")
        best = images.clone()
        active = torch.arange(len(images), device=images.device)
        with isolated(self.seed):
            module = ObjectiveModule(objective, images)
            for part in self._parts(module, float(radius.max()), classes):
                moved = part(images[active].float(), labels[active]).detach()
                moved = clip(moved.to(images.dtype), images[active], radius[active])
                best[active] = moved
                active = active[~objective.misclassified(moved, labels[active])]
                if not len(active):
                    break
        return best

    def _parts(self, model: ObjectiveModule, eps: float, classes: int) -> Iterator[Any]:
        """Build the attacks in their order."""
        parts = quiet_import("torchattacks")
        given: dict[str, Any] = {"norm": "L2", "eps": eps, "seed": self.seed}
        targeted: dict[str, Any] = {"steps": self.steps, "n_classes": classes}
        yield parts.APGD(model, **given, steps=self.steps, loss="ce")
        yield parts.APGDT(model, **given, **targeted)
        yield parts.FAB(model, **given, **targeted, multi_targeted=True)
        yield parts.Square(model, **given, n_queries=self.queries)
