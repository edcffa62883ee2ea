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
from taut.attacks._driver import METHODS, attack, make_method, smallest_attack
from taut.attacks._hold import Certified, hold
from taut.attacks.attacked import Attacked, read_attacks, write_attacks

BATCH = 100
"""Images attacked at once, and kept at once."""

_FEW = {"boundary": 100, "pointwise": 100}
"""Images of the methods that take minutes, as in the paper's protocol."""


@final
@dataclass(frozen=True)
class Trial:
    """A method with its options, for the first so many images.

    Attributes:
        name: for tables.
        method: in `METHODS`.
        options: of the method.
        limit: number of images; None for all.

    Example:
        >>> Trial("pgd", "pgd", {"steps": 5}).build().steps
        5
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None

    def build(self) -> AbstractAttack:
        """Return the method with its options."""
        return make_method(self.method, self.options)

    def size(self, images: Sequence[object] | Tensor) -> int:
        """Number of images attacked, of those there are."""
        return len(images) if self.limit is None else min(self.limit, len(images))


PAPER = (
    Trial("pgd-paper", "pgd", {"steps": 200, "step_size": 0.01}),
    Trial("fgsm", "fgsm"),
    Trial("boundary", "boundary", limit=100),
    Trial("pointwise", "pointwise", limit=100),
)
"""The protocol of Li et al. (2019): PGD and FGSM on the whole test set, the rest on 100 images."""


def plan(
    methods: Sequence[str],
    limits: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> tuple[Trial, ...]:
    """Say which attacks to run, on how many images each.

    Args:
        methods: names in `METHODS`, "paper" for `PAPER`, "all" for every method.
        limits: numbers of images: "200" for all methods, "boundary=50" for one, "pgd-paper"
            being the PGD of "paper". Without it 1000 for a method named, what the protocol asks
            for with "paper"; boundary and pointwise take 100 at most unless they are named here.
        options: for every method.

    Raises:
        ValueError: if a method, limit or option is none.
        ImportError: if the library of a method is not installed.

    Example:
        >>> [(t.name, t.limit) for t in plan(["pgd", "boundary"], ["200"])]
        [('pgd', 200), ('boundary', 100)]
    """
    trials: list[Trial] = []
    for name in methods:
        if name == "paper":
            trials += PAPER
        else:
            names = METHODS if name == "all" else (name,)
            trials += [Trial(n, n, limit=_FEW.get(n, 1000)) for n in names]
    general, own = _limits(limits)
    chosen: dict[str, Trial] = {}
    for trial in trials:
        most = trial.limit if general is None else min(general, _FEW.get(trial.method, general))
        limit = own.get(trial.name, most)
        trial = replace(trial, limit=limit, options={**trial.options, **(options or {})})
        trial.build()
        chosen.setdefault(trial.name, trial)
    if missing := sorted(set(own) - set(chosen)):
        raise ValueError(f"`limit` must name a method that is run; got {', '.join(missing)}.")
    return tuple(chosen.values())


def _limits(limits: Sequence[str]) -> tuple[int | None, dict[str, int]]:
    """Read "200" and "boundary=50"."""
    general, own = None, {}
    for text in limits:
        name, equals, number = text.rpartition("=")
        try:
            count = int(number)
        except ValueError:
            count = 0
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
@dataclass(frozen=True, eq=False)
class Target:
    """A model to attack, with what is proven of it.

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
    certified: Certified

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the exported weights, as the certificate has it."""
        return self.certified.certificate.content()["weights_sha256"]

    def images_sha256(self, count: int) -> str:
        """Hash of the first `count` images."""
        return hashlib.sha256(self.images[:count].cpu().contiguous().numpy().tobytes()).hexdigest()


def kept_attacks(target: Target, path: Path) -> list[Attacked]:
    """The attacks in a file that were on this model and these images.

    Args:
        target: what is attacked.
        path: of the file; it need not exist.

    Raises:
        ValueError: if the file is damaged; the message names it.

    Example:
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> target = Target(model, images, taut.certify(model, images, torch.tensor([0, 1])))
        >>> kept_attacks(target, Path("runs/nowhere/attacks.json"))
        []
    """
    found = read_attacks(path, target.weights_sha256)
    return [a for a in found if a.images_sha256 == target.images_sha256(len(a))]


def run_trial(
    trial: Trial,
    target: Target,
    eps: str,
    path: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Attacked:
    """Run an attack, or what is missing of it, and keep each batch in a file at once.

    Args:
        trial: the attack.
        target: what is attacked; enough of its images are certified.
        eps: l2 radius as text; a search for the nearest error is the same one for all of them.
        path: of the file; attacks on other weights are taken out of it.
        on_progress: called with the number of images done.

    Returns:
        What it came to on the first images, as many as the trial asks for.

    Raises:
        RuntimeError: if a certificate is broken; see `hold`.
        ValueError: as `attack` does, or if a generator is asked for or the file is damaged.

    Example:
        >>> import tempfile
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> target = Target(model, images, taut.certify(model, images, torch.tensor([0, 1])))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(run_trial(Trial("fgsm", "fgsm"), target, "0.1", Path(folder, "attacks.json")))
        2
    """
    count, method = trial.size(target.images), trial.build()
    options = {f.name: getattr(method, f.name) for f in fields(method) if f.name != "generator"}
    if trial.options.get("generator") is not None:
        raise ValueError("`generator` cannot be kept in a file; leave it out.")
    none = torch.zeros(0, dtype=torch.bool)
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
    for other in kept_attacks(target, path):
        if kept.same_attack(other):
            kept = other
    on_progress(min(len(kept), count))
    while len(kept) < count:
        kept = _extend(kept, trial, eps, target, min(len(kept) + BATCH, count))
        _keep(kept, path)
        on_progress(len(kept))
    ends = {n: getattr(kept, n)[:count] for n in ("success", "distance", "float32_only")}
    return replace(kept, images_sha256=target.images_sha256(count), **ends)


def _extend(kept: Attacked, trial: Trial, eps: str, target: Target, stop: int) -> Attacked:
    """Attack the next images, and hold what is found against the certificate."""
    start, method = len(kept), trial.build()
    images = target.images[start:stop]
    labels = target.certified.labels[start:stop].to(images.device)
    if isinstance(method, AbstractSmallestAttack):
        result = smallest_attack(target.model, images, labels, method)
    else:
        result = attack(target.model, images, labels, eps, method)
    places = range(start, stop)
    only = hold(result, target.model, images, target.certified, method=trial.name, places=places)
    return replace(
        kept,
        images_sha256=target.images_sha256(stop),
        success=torch.cat([kept.success, result.success.cpu()]),
        distance=torch.cat([kept.distance, result.distance.cpu()]),
        float32_only=torch.cat([kept.float32_only, only]),
    )


def _keep(attacked: Attacked, path: Path) -> None:
    """Put an attack in the place of its shorter self."""
    others = read_attacks(path, attacked.weights_sha256)
    write_attacks(path, [*(a for a in others if not attacked.same_attack(a)), attacked])
