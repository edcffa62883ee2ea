"""Trains, certifies and attacks the nets of a table, as far as that is missing."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from taut.attacks import attack
from taut.certification import above, certify
from taut.reproduce._attacks import ATTACKS
from taut.reproduce._measured import keep, measured, missing
from taut.reproduce._plan import Trial
from taut.reproduce._table import Measure
from taut.training import Device, Progress, Run, train
from taut.training.run import RECIPE, finished

_BATCH = 128

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def trained(trial: Trial, *, device: Device, on_progress: Callable[[Progress], None]) -> Run:
    """The run of a trial, trained from where it stopped; a finished one is not touched.

    Args:
        trial: of a plan.
        device: where to.
        on_progress: as of `taut.training.train`.

    Returns:
        The finished run.
    """
    if (trial.folder / RECIPE).is_file() and finished(run := Run.open(trial.folder)):
        return run
    return train(
        trial.recipe,
        trial.folder,
        data_dir=trial.data_dir,
        device=device,
        on_progress=on_progress,
    )


def take(run: Run, measures: Sequence[Measure], *, device: torch.device, bar: Bar) -> None:
    """Certifies and attacks a finished run, as far as that is missing, and keeps what it finds.

    The certificate is that of the float64 program, and is saved too. Each attack is kept when it
    is done.

    Args:
        run: finished.
        measures: what to measure.
        device: where to.
        bar: shows an attack: from its label and number of images to a function of those done.

    Raises:
        RuntimeError: if an attack breaks an image within its certified radius.
    """
    left = missing(run, measures)
    if not left:
        return
    model, test = run.model(device), run.dataset().test.to(device)
    images, labels = test.float_images(), test.labels
    with bar("certifying", 1):
        found = certify(model, images, labels, eps=run.recipe.eps)
    found.save(run.path / "certificate.json")
    right = found.predictions == found.labels
    known = measured(run) | {"bound": float(found.bound)}
    for eps in run.recipe.eps:
        known[Measure("certified", eps).label] = _share(above(found.radius, eps))
    for measure in (Measure("clean", ""), *(m for m in left if m.kind == "clean")):
        known[measure.label] = _share(right[: measure.images])
    keep(run, known)
    for measure in left:
        if measure.kind in ATTACKS:
            part = images[: measure.images], labels[: measure.images]
            broken = _broken(model, part, measure, bar)
            _hold_against(found.radius, broken, measure, run)
            known[measure.label] = 1 - _share(broken)
            keep(run, known)


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)


def _broken(model: nn.Module, part: tuple[Tensor, Tensor], measure: Measure, bar: Bar) -> Tensor:
    """Which images an attack broke; batch by batch, so that progress is seen."""
    found, method = [], ATTACKS[measure.kind]
    with bar(measure.label, len(part[1])) as tell:
        for images, labels in zip(*(tensor.split(_BATCH) for tensor in part), strict=True):
            found.append(attack(model, images, labels, measure.eps, method).success.cpu())
            tell(sum(map(len, found)))
    return torch.cat(found)


def _hold_against(radius: Tensor, broken: Tensor, measure: Measure, run: Run) -> None:
    refuted = (broken & above(radius[: len(broken)], measure.eps)).nonzero().flatten().tolist()
    if refuted:
        raise RuntimeError(
            f"A certificate is broken: test image {refuted[0]} ({len(refuted)} in all) of "
            f"{run.path} is certified at eps {measure.eps}, and an attack changed its prediction "
            f"within eps ({measure.label}). Please report this as a bug."
        )
