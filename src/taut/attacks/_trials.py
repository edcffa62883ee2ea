"""Which attacks to run on how many images, and running them so that nothing is lost."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.attacks._base import AbstractAttack, AbstractSmallestAttack
from taut.attacks._driver import attack, make_attack, methods, smallest_attack
from taut.attacks._hold import hold
from taut.attacks._kept import Attacked, read_attacks, write_attacks
from taut.certification import Certification
from taut.kinds import did_you_mean

BATCH = 100
"""Images attacked at once, and kept at once."""

_IMAGES, _IMAGES_IF_SLOW = 1000, 100


@final
@dataclass(frozen=True)
class AttackTrial:
    """An attack with its options and the number of images to attack.

    Attributes:
        name: for tables.
        method: kind of the attack.
        options: of the attack.
        limit: number of images; None for all.

    Example:
        >>> AttackTrial("pgd", "pgd", {"steps": 5}).build().steps
        5
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None

    def build(self) -> AbstractAttack:
        """Return the attack with its options."""
        return make_attack(self.method, self.options)

    def size(self, images: Sequence[object] | Tensor) -> int:
        """Number of images to attack, at most those available."""
        return len(images) if self.limit is None else min(self.limit, len(images))


PAPER = (
    AttackTrial("pgd-paper", "pgd", {"steps": 200, "step_size": 0.01}),
    AttackTrial("fgsm", "fgsm"),
    AttackTrial("boundary", "boundary", limit=_IMAGES_IF_SLOW),
    AttackTrial("pointwise", "pointwise", limit=_IMAGES_IF_SLOW),
)
"""The protocol of Li et al. (2019): PGD and FGSM on the whole test set, the rest on 100 images."""


def plan(
    names: Sequence[str],
    limits: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> tuple[AttackTrial, ...]:
    """Choose the attacks to run, and on how many images each.

    Args:
        names: of attacks, "paper" for `PAPER`, "all" for every attack.
        limits: numbers of images: "200" for all attacks, "boundary=50" for one, "pgd-paper"
            being the PGD of "paper". The default is 1000 for an attack named, or what "paper" asks
            for; slow attacks take 100 at most unless they are named here.
        options: for every attack.

    Raises:
        ValueError: if a name, limit or option is unknown.
        ImportError: if the library of an attack is not installed.

    Example:
        >>> [(t.name, t.limit) for t in plan(["pgd", "boundary"], ["200"])]
        [('pgd', 200), ('boundary', 100)]
    """
    general, own = _limits(limits)
    planned: dict[str, AttackTrial] = {}
    for trial in (trial for name in names for trial in _trials(name)):
        trial = replace(trial, options={**trial.options, **(options or {})})
        slow, limit = trial.build().slow, trial.limit
        if general is not None:
            limit = min(general, _IMAGES_IF_SLOW) if slow else general
        planned.setdefault(trial.name, replace(trial, limit=own.get(trial.name, limit)))
    if missing := sorted(set(own) - set(planned)):
        hint = did_you_mean(missing[0], planned)
        raise ValueError(
            f"`limit` must name a method that is run ({', '.join(planned)}); "
            f"got {', '.join(missing)}.{hint}"
        )
    return tuple(planned.values())


def _trials(name: str) -> Sequence[AttackTrial]:
    """Return the trials behind a name, with their default limits."""
    if name == "paper":
        return PAPER
    built = {kind: make_attack(kind, {}) for kind in (methods() if name == "all" else (name,))}
    limits = {kind: _IMAGES_IF_SLOW if built[kind].slow else _IMAGES for kind in built}
    return [AttackTrial(kind, kind, limit=limit) for kind, limit in limits.items()]


def _limits(limits: Sequence[str]) -> tuple[int | None, dict[str, int]]:
    """Read "200" and "boundary=50"."""
    general, own = None, {}
    for text in limits:
        name, equals, number = text.rpartition("=")
        count = int(number) if number.isdecimal() else 0
        if count < 1:
            raise ValueError(
                f'`limit` must be a number of at least 1, or such as "boundary=50"; got {text!r}.'
            )
        if equals:
            own[name] = count
        else:
            general = count
    return general, own


@final
@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """A model to attack, with its certification.

    Attributes:
        model: maps images to logits.
        images: of the whole test set, in [0, 1].
        certified: of the first of them, as many as will be attacked.

    Example:
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> target = Target(model, images, taut.certify(model, images, torch.tensor([0, 1])))
        >>> len(target.weights_sha256)
        64
    """

    model: nn.Module
    images: Float[Tensor, "n *shape"]
    certified: Certification

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the exported weights, as in the certificate."""
        return self.certified.certificate.content()["weights_sha256"]

    def images_sha256(self, count: int) -> str:
        """Hash of the first `count` images."""
        return hashlib.sha256(self.images[:count].cpu().contiguous().numpy().tobytes()).hexdigest()

    def kept(self, path: Path) -> list[Attacked]:
        """Saved attacks on this model and these images; none if there is no file."""
        kept = read_attacks(path, self.weights_sha256)
        return [a for a in kept if a.images_sha256 == self.images_sha256(len(a))]


def run_trial(
    trial: AttackTrial,
    target: Target,
    eps: str,
    path: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Attacked:
    """Run an attack, or the missing part of one, and save each batch to a file.

    Args:
        trial: the attack.
        target: the model and its images, enough of them certified.
        eps: l2 radius as text; a search for the nearest error is the same one for all of them.
        path: of the file; attacks on other weights are removed from it.
        on_progress: called with the number of images done.

    Returns:
        The result on the first images, as many as the trial asks for.

    Raises:
        RuntimeError: if a certificate is broken; see `hold`.
        ValueError: as `attack` does, or if a generator is given or the file is damaged.

    Example:
        >>> import tempfile
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> target = Target(model, images, taut.certify(model, images, torch.tensor([0, 1])))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trial, path = AttackTrial("fgsm", "fgsm"), Path(folder, "attacks.json")
        ...     len(run_trial(trial, target, "0.1", path))
        2
    """
    count, method = trial.size(target.images), trial.build()
    options = {option.name: getattr(method, option.name) for option in fields(method)}
    if options.pop("generator", None) is not None:
        raise ValueError("`generator` cannot be kept in a file; leave it out.")
    none = torch.zeros(0, dtype=torch.bool, device="cpu")
    kept = Attacked(
        method=trial.method,
        options=options,
        eps=None if isinstance(method, AbstractSmallestAttack) else eps,
        weights_sha256=target.weights_sha256,
        images_sha256=target.images_sha256(0),
        success=none,
        distance=none.double(),
        float32_only=none,
    )
    kept = next((a for a in target.kept(path)[::-1] if kept.same_attack(a)), kept)
    on_progress(min(len(kept), count))
    while len(kept) < count:
        kept = _extend(kept, trial, eps, target, min(len(kept) + BATCH, count))
        others = [a for a in read_attacks(path, kept.weights_sha256) if not kept.same_attack(a)]
        write_attacks(path, [*others, kept])
        on_progress(len(kept))
    return replace(
        kept,
        images_sha256=target.images_sha256(count),
        success=kept.success[:count],
        distance=kept.distance[:count],
        float32_only=kept.float32_only[:count],
    )


def _extend(kept: Attacked, trial: AttackTrial, eps: str, target: Target, stop: int) -> Attacked:
    """Attack the next images, and check the result against the certificate."""
    start, method = len(kept), trial.build()
    images = target.images[start:stop]
    labels = target.certified.labels[start:stop].to(images.device)
    if isinstance(method, AbstractSmallestAttack):
        result = smallest_attack(target.model, images, labels, method)
    else:
        result = attack(target.model, images, labels, eps, method)
    places = range(start, stop)
    only = hold(result, images, target.certified, method=trial.name, places=places)
    return replace(
        kept,
        images_sha256=target.images_sha256(stop),
        success=torch.cat([kept.success, result.success.cpu()]),
        distance=torch.cat([kept.distance, result.distance.cpu()]),
        float32_only=torch.cat([kept.float32_only, only]),
    )
