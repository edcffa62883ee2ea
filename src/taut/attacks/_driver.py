"""The one driver: checks the input, runs a method, clips, and judges success itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import final

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor, nn

from taut.attacks._base import AbstractAttack, AbstractSmallestAttack, as_radius
from taut.attacks._geometry import clip, distances
from taut.attacks._objective import Objective
from taut.attacks.autoattack import AutoAttack
from taut.attacks.boundary import BoundaryAttack
from taut.attacks.carlini_wagner import CarliniWagner
from taut.attacks.ddn import DDN, diameter
from taut.attacks.deepfool import DeepFool
from taut.attacks.fgsm import FGSM
from taut.attacks.pgd import PGD
from taut.attacks.pointwise import PointwiseAttack
from taut.parametrizations import cached

METHODS: dict[str, Callable[..., AbstractAttack]] = {
    "pgd": PGD,
    "fgsm": FGSM,
    "ddn": DDN,
    "deepfool": DeepFool,
    "carlini-wagner": CarliniWagner,
    "boundary": BoundaryAttack,
    "pointwise": PointwiseAttack,
    "autoattack": AutoAttack,
}
"""Methods of attack by the name that `attack` and the command line take."""


@final
@dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
        adversarial: images in the ball and the pixel box; the image itself where nothing was done.
        success: whether the model's prediction for `adversarial` differs from the label.
        distance: l2 distance to the image in float64; 0 where the image itself is misclassified.

    Example:
        >>> zeros = torch.zeros(2, 1, 2, 2)
        >>> AttackResult(zeros, torch.tensor([True, False]), torch.zeros(2).double()).accuracy
        0.5
    """

    adversarial: Float[Tensor, "b *shape"]
    success: Bool[Tensor, " b"]
    distance: Float64[Tensor, " b"]

    @property
    def accuracy(self) -> float:
        """Share of images that the attack left correctly classified."""
        return 1 - self.success.double().mean().item()


def attack(
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    labels: Shaped[Tensor, " b"],
    eps: int | float | str | Fraction,
    method: str | AbstractAttack = "pgd",
    *,
    batch_size: int = 256,
    **options: object,
) -> AttackResult:
    r"""Search the l2 balls of radius `eps` around `images` for misclassified images.

    The model is attacked as it predicts, in eval mode, on a copy: its parameters, gradients,
    buffers and mode stay as they are. Whatever the method returns is clipped to the ball and to
    the box [0, 1], and success is read off the clipped images: a broken image is broken.
    The share left correct is an upper bound of the accuracy under the best attack.

    Args:
        model: maps images to logits.
        images: in [0, 1].
        labels: true classes.
        eps: l2 radius in the units of `images`: a number or a string such as "36/255".
        method: a name in `taut.attacks.METHODS`, or a method such as `PGD(steps=50)`.
        batch_size: images attacked at once.
        **options: of the method named, such as `steps`, `step_size`, `restarts`, `generator`.

    Raises:
        ValueError: if `eps` is not positive, an image is outside [0, 1], labels do not fit, or the
            method or an option of it is unknown.
        ImportError: if the library of the method is not installed.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> result = attack(model, images, labels, eps="36/255", steps=10)
        >>> bool((result.distance <= 36 / 255).all())
        True
    """
    radius = as_radius(eps)
    chosen = make_method(method, options)
    _check(images, labels, batch_size)
    return _attack(chosen, model, images, labels, radius, batch_size)


def smallest_attack(
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    labels: Shaped[Tensor, " b"],
    method: str | AbstractSmallestAttack = "ddn",
    *,
    batch_size: int = 256,
    **options: object,
) -> AttackResult:
    r"""Search for the misclassified image nearest to each image, anywhere in the pixel box.

    Its distance bounds the true distance to the decision boundary from above, as the certified
    radius does from below. Where nothing was found `success` is False.

    Args:
        model: maps images to logits.
        images: in [0, 1].
        labels: true classes.
        method: "ddn", "deepfool", "carlini-wagner", "boundary" or "pointwise", or a method such as
            `DDN(steps=50)`.
        batch_size: images attacked at once.
        **options: of the method named, such as `steps`.

    Raises:
        ValueError: as `attack` does; or if the method looks for no smallest distance.
        ImportError: if the library of the method is not installed.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> smallest_attack(model, images, labels).distance.shape
        torch.Size([3])
    """
    chosen = make_method(method, options)
    if not isinstance(chosen, AbstractSmallestAttack):
        raise ValueError(
            f"`method` must look for the smallest distance; {type(chosen).__name__} takes one: "
            "use `attack`."
        )
    _check(images, labels, batch_size)
    return _attack(chosen, model, images, labels, diameter(images), batch_size)


def _attack(
    method: AbstractAttack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    batch_size: int,
) -> AttackResult:
    """Run the method over batches; clip and judge each batch here, whatever the method says."""
    with torch.inference_mode(mode=False), cached():
        adversarial = images.detach().clone()
        success = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        objective = Objective(model)
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            clean, truth = images[part].detach().clone(), labels[part].long()
            found = clean.clone()
            right = ~objective.broken(clean, truth)
            if right.any():
                radius = torch.full((int(right.sum()),), eps, dtype=torch.float64).to(images.device)
                moved = method.perturb(objective, clean[right], truth[right], radius.clone())
                found[right] = clip(moved.detach(), clean[right], radius)
            adversarial[part] = found
            success[part] = objective.broken(found, truth)
    return AttackResult(adversarial, success, distances(adversarial, images.detach()))


def make_method(method: str | AbstractAttack, options: Mapping[str, object]) -> AbstractAttack:
    """Build the method named, with its options.

    Raises:
        ValueError: if the method or an option is unknown, or options come with a method built.
        ImportError: if the library of the method is not installed.

    Example:
        >>> make_method("ddn", {"steps": 5})
        DDN(steps=5, gamma=0.05)
    """
    if isinstance(method, AbstractAttack):
        if options:
            raise ValueError(
                f"`options` must be given to {type(method).__name__}(...) itself when `method` is "
                f"an object; got {', '.join(sorted(options))}."
            )
        return method
    if method not in METHODS:
        allowed = ", ".join(f'"{name}"' for name in METHODS)
        raise ValueError(f"`method` must be one of {allowed}; got method={method!r}.")
    plain = METHODS[method]()
    allowed = [field.name for field in fields(plain)]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        takes = (
            f"must be among {', '.join(allowed)}" if allowed else "must be left out: it has none"
        )
        raise ValueError(f'Options of "{method}" {takes}; got {", ".join(unknown)}.')
    return METHODS[method](**options)


def _check(images: Tensor, labels: Tensor, batch_size: int) -> None:
    """Refuse images outside the pixel box and labels that do not fit them."""
    if not images.is_floating_point():
        raise ValueError(f"`images` must be floating point in [0, 1]; got {images.dtype}.")
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise ValueError(
            f"`images` must be in [0, 1] without NaN; got values from {low:.4g} to {high:.4g}."
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be {len(images)} integers, one an image; got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; got batch_size={batch_size}.")
