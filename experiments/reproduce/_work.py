"""Certifies and attacks a net of a table, as far as that is missing.

What a table says of a run is kept in its folder: shares of the test images in measured.json, the
attacks image by image in attacks.json.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from experiments._record import write_json
from experiments._runner import progress
from experiments._training import share
from experiments.reproduce._published import Measure
from taut.attacks import ATTACKS, PAPER, Target, run_trial
from taut.certification import above, certify
from taut.training import Run

MEASURED = "measured.json"
# The attacks of the paper's tables, by kind of column.
PROTOCOL = {trial.method: trial for trial in PAPER}


def measured(run: Run) -> dict[str, float]:
    """Accuracies from 0 to 1 by label, and the Lipschitz bound as "bound", as far as known."""
    path = run.path / MEASURED
    if not path.is_file():
        return {}
    try:
        return {str(label): float(value) for label, value in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None


def missing(run: Run, measures: Sequence[Measure]) -> list[Measure]:
    known = measured(run)
    return [measure for measure in measures if measure.label not in known]


def take(run: Run, measures: Sequence[Measure], device: torch.device) -> None:
    """Certifies and attacks a finished run, as far as that is missing, and keeps what it finds.

    The certificate is that of the float64 program, and is saved too. Each batch of an attack is
    kept when it is done. An attack that breaks a certificate fails: see `taut.attacks.hold`.
    """
    left = missing(run, measures)
    if not left:
        return
    model, test = run.model(device), run.dataset().test.to(device)
    with progress("certifying", 1):
        certified = certify(model, test.float_images(), test.labels, eps=run.recipe.eps)
    certified.save(run.path / "certificate.json")
    right = certified.predictions == certified.labels
    known = measured(run) | {"bound": float(certified.bound)}
    for eps in run.recipe.eps:
        known[Measure("certified", eps).label] = share(above(certified.radius, eps))
    for measure in (Measure("clean", ""), *(m for m in left if m.kind == "clean")):
        known[measure.label] = share(right[: measure.images])
    write_json(run.path / MEASURED, known)
    target = Target(model, test.float_images(), certified)
    for measure in (m for m in left if m.kind in PROTOCOL):
        trial = replace(PROTOCOL[measure.kind], limit=measure.images)
        with progress(measure.label, trial.size(target.images)) as tell:
            attacked = run_trial(trial, target, measure.eps, run.path / ATTACKS, tell)
        known[measure.label] = attacked.survived(measure.eps)
        write_json(run.path / MEASURED, known)
