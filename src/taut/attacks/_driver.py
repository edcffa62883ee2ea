"""The one driver: checks the input, runs an attack, clips, and judges success itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from taut._arguments import check_tensor, whole
from taut._sharding import gathers
from taut.attacks._base import AbstractAttack, AbstractSmallestAttack
from taut.attacks._geometry import clip, distances
from taut.attacks._objective import Objective
from taut.attacks._result import AttackResult, as_float
from taut.certification import Eps, as_eps_sequence
from taut.linalg.rates import wide_dtype
from taut.parametrizations import cached


@gathers
def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: Eps | Sequence[Eps],
    method: str | AbstractAttack = "pgd",
    *,
    batch_size: int = 256,
    **options: object,
) -> AttackResult:
    r"""Search the l2 balls of radius `eps` around `images` for misclassified images.

    The model is attacked as it predicts, in eval mode, on a copy: its parameters, gradients,
    buffers and mode stay as they are. Whatever the method returns is clipped to the ball and to
    the box [0, 1], and success is read off the clipped images. The share left correct is an upper
    bound of the accuracy under the best attack.

    Args:
        model: maps images to logits, or to one number f, whose class is 1 where f > 0; it draws no
            random numbers in eval mode.
        images: in [0, 1], in the precision of the model.
        labels: true classes, integers; of a model with one output 0 and 1, or -1 and +1.
        eps: l2 radius in the units of `images`: a number, a fraction, a string such as "36/255", or
            a sequence of these. Of several, each image is attacked at the smallest first, until
            one succeeds; see `AttackResult.attacked_accuracy`.
        method: a name in `taut.attacks.methods()`, or an attack such as `PGD(steps=50)`.
        batch_size: images attacked at once.
        **options: of the attack named, such as `steps`, `step_size`, `restarts`, `generator`.

    Raises:
        ValueError: if `eps` is not positive, an image is outside [0, 1], labels do not fit, the
            model is unfit, or the method or an option of it is unknown.
        ImportError: if the library of the method is not installed.

    Example:
        >>> model, images, labels = nn.Linear(4, 2), torch.rand(3, 4), torch.tensor([0, 1, 1])
        >>> result = attack(model, images, labels, eps="36/255", steps=10)
        >>> bool((result.distance <= 36 / 255).all())
        True
    """
    radii = as_eps_sequence(eps, positive=True)
    return _attack(make_attack(method, options), model, images, labels, radii, batch_size)


@gathers
def smallest_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
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
        method: name of an attack that looks for the smallest distance, or one such as
            `DDN(steps=50)`.
        batch_size: images attacked at once.
        **options: of the attack named, such as `steps`.

    Raises:
        ValueError: as `attack` does; or if the method does not look for the smallest distance.

    Example:
        >>> model, images, labels = nn.Linear(4, 2), torch.rand(3, 4), torch.tensor([0, 1, 1])
        >>> smallest_attack(model, images, labels).distance.shape
        torch.Size([3])
    """
    chosen = make_attack(method, options)
    if not isinstance(chosen, AbstractSmallestAttack):
        raise ValueError(
            f"`method` must look for the smallest distance; {type(chosen).__name__} takes one: "
            "use `attack`."
        )
    return _attack(chosen, model, images, labels, (), batch_size)


def methods() -> dict[str, type[AbstractAttack]]:
    """Return the exported attacks by their kind, those of taut first.

    Example:
        >>> methods()["pgd"]
        <class 'taut.attacks._pgd.PGD'>
    """
    from taut import attacks

    exported = (value for name, value in vars(attacks).items() if name in attacks.__all__)
    classes = [c for c in exported if isinstance(c, type) and issubclass(c, AbstractAttack)]
    classes.sort(key=lambda cls: cls.library or "")
    return {cls.kind: cls for cls in classes if cls.kind}


def make_attack(method: str | AbstractAttack, options: Mapping[str, object]) -> AbstractAttack:
    """Build the attack named, with its options; an attack that is built already takes none."""
    if isinstance(method, AbstractAttack):
        if options:
            raise ValueError(
                f"`options` must be given to {type(method).__name__}(...) itself when `method` is "
                f"an object; got {', '.join(sorted(options))}."
            )
        return method
    known = methods()
    if not isinstance(method, str) or method not in known:
        allowed = ", ".join(f'"{name}"' for name in known)
        raise ValueError(f"`method` must be one of {allowed}; got method={method!r}.")
    allowed = [field.name for field in fields(known[method])]
    if unknown := sorted(set(options) - set(allowed)):
        must = f"be among {', '.join(allowed)}" if allowed else "be left out: it has none"
        got = ", ".join(f"`{name}`" for name in unknown)
        raise ValueError(f'Options of "{method}" must {must}; got {got}.')
    return known[method](**options)


def _attack(
    method: AbstractAttack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: tuple[Eps, ...],
    batch_size: int,
) -> AttackResult:
    """Run an attack batch by batch; clip and judge here, whatever it claims."""
    _check(images, labels, batch_size)
    # No attack needs to look farther than the diameter of the box.
    radii = sorted(map(as_float, eps)) or [math.sqrt(images[:1].numel())]
    with torch.inference_mode(mode=False), cached():
        adversarial = images.detach().clone()
        success = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        objective = Objective(model)
        objective.check_repeatable(adversarial[:batch_size])
        labels = objective.numbers(labels, adversarial)
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            clean, truth = images[part].detach().clone(), labels[part].long()
            moved = clean.clone()
            broken = objective.broken(clean, truth)
            for eps_now in radii:
                right = ~broken
                if right.any():
                    given, count = clean[right], int(right.sum())
                    radius = clean.new_full((count,), eps_now, dtype=wide_dtype(clean.device))
                    found = method.perturb(objective, given, truth[right], radius).detach()
                    moved[right] = _clipped(found, clean[right], eps_now)
                    broken = objective.broken(moved, truth)
            adversarial[part], success[part] = moved, broken
    # In float64, whatever the device has.
    place = "cpu" if wide_dtype(images.device) != torch.float64 else images.device
    distance = distances(adversarial.to(place), images.detach().to(place))
    name = method.kind or type(method).__name__
    return AttackResult(adversarial, success, distance, eps, name)


def _clipped(candidates: Tensor, images: Tensor, eps: float) -> Tensor:
    """Clip in float64, on the CPU where the device has none."""
    if wide_dtype(images.device) != torch.float64:
        return _clipped(candidates.cpu(), images.cpu(), eps).to(images)
    return clip(candidates, images, images.new_full((len(images),), eps, dtype=torch.float64))


def _check(images: Tensor, labels: Tensor, batch_size: int) -> None:
    """Refuse images outside the pixel box and labels that do not fit them."""
    for name, value in (("images", images), ("labels", labels)):
        check_tensor(name, value)
    if not images.is_floating_point() or images.ndim < 2:
        raise ValueError(
            "`images` must be a batch in floating point in [0, 1] (divide bytes by 255); "
            f"got {images.dtype} of shape {tuple(images.shape)}."
        )
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise ValueError(
            f"`images` must be in [0, 1] without NaN; got values from {low:.4g} to {high:.4g}."
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"`labels` must be {len(images)} integers, the class of each image (of one-hot rows: "
            f"labels.argmax(1)); got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    whole("batch_size", batch_size)
