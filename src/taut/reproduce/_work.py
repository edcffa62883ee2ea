"""Trains, certifies and attacks one net of a table, as far as that is missing.

What a table says of a run is kept in its folder: shares of the test images in measured.json, the
attacks image by image in attacks.json.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from taut.attacks import ATTACKS, PAPER, Target, run_trial
from taut.certification import above, certify
from taut.files import write_atomically
from taut.reproduce._table import Kind, Measure
from taut.training import Device, Progress, Recipe, Run, train
from taut.training.run import RECIPE, finished

MEASURED = "measured.json"
PROTOCOL = {trial.method: trial for trial in PAPER}
"""The attacks of the paper's tables, by kind of column."""

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows how far something is: from a label and a total to a function of what is done."""


def check_attacks(kinds: Iterable[Kind]) -> None:
    """Fails now as an attack would hours later.

    Args:
        kinds: of a table's columns.

    Raises:
        ImportError: if an attack needs an extra that is not installed.

    Example:
        >>> check_attacks(["clean", "pgd"])
    """
    for kind in kinds:
        if kind in PROTOCOL:
            PROTOCOL[kind].build()


def measured(run: Run) -> dict[str, float]:
    """What has been measured of a run so far.

    Args:
        run: of a table.

    Returns:
        Accuracies from 0 to 1 by label, and the Lipschitz bound as "bound".

    Raises:
        ValueError: if the file is damaged; the message names it.
    """
    path = run.path / MEASURED
    if not path.is_file():
        return {}
    try:
        return {str(label): float(value) for label, value in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None


def missing(run: Run, measures: Sequence[Measure]) -> list[Measure]:
    """Those that have not been taken of a run."""
    known = measured(run)
    return [measure for measure in measures if measure.label not in known]


def trained(
    recipe: Recipe,
    folder: Path,
    *,
    data_dir: Path | None,
    device: Device,
    on_progress: Callable[[Progress], None],
) -> Run:
    """The run of a recipe, trained from where it stopped; a finished one is not touched.

    Args:
        recipe: how it is trained.
        folder: the run folder.
        data_dir: where its data set lies, as of `taut.training.train`.
        device: where to.
        on_progress: as of `taut.training.train`.

    Returns:
        The finished run.
    """
    if (folder / RECIPE).is_file() and finished(run := Run.open(folder)):
        return run
    return train(recipe, folder, data_dir=data_dir, device=device, on_progress=on_progress)


def take(run: Run, measures: Sequence[Measure], *, device: torch.device, bar: Bar) -> None:
    """Certifies and attacks a finished run, as far as that is missing, and keeps what it finds.

    The certificate is that of the float64 program, and is saved too. Each batch of an attack is
    kept when it is done.

    Args:
        run: finished.
        measures: what to measure.
        device: where to.
        bar: shows an attack: from its label and number of images to a function of those done.

    Raises:
        RuntimeError: if an attack breaks a certificate; see `taut.attacks.hold`.
    """
    left = missing(run, measures)
    if not left:
        return
    model, test = run.model(device), run.dataset().test.to(device)
    with bar("certifying", 1):
        found = certify(model, test.float_images(), test.labels, eps=run.recipe.eps)
    found.save(run.path / "certificate.json")
    right = found.predictions == found.labels
    known = measured(run) | {"bound": float(found.bound)}
    for eps in run.recipe.eps:
        known[Measure("certified", eps).label] = _share(above(found.radius, eps))
    for measure in (Measure("clean", ""), *(m for m in left if m.kind == "clean")):
        known[measure.label] = _share(right[: measure.images])
    _keep(run, known)
    target = Target(model, test.float_images(), found)
    for measure in (m for m in left if m.kind in PROTOCOL):
        known[measure.label] = _survived(run, target, measure, bar)
        _keep(run, known)


def _survived(run: Run, target: Target, measure: Measure, bar: Bar) -> float:
    """Share of its first images that an attack leaves correct."""
    trial = replace(PROTOCOL[measure.kind], limit=measure.images)
    with bar(measure.label, trial.size(target.images)) as tell:
        found = run_trial(trial, target, measure.eps, run.path / ATTACKS, tell)
    return found.survived(measure.eps)


def _keep(run: Run, known: Mapping[str, float]) -> None:
    write_atomically(run.path / MEASURED, (json.dumps(known, indent=1) + "\n").encode())


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)
