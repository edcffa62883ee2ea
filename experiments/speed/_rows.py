"""One case, all contenders, side by side: one row each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import final

import torch
from torch import nn
from torch.nn.utils import parametrize

from experiments.speed._cases import Case, NetCase
from experiments.speed._contenders import PLAIN, TAUT, Contender, is_same
from experiments.speed._memory import peak_memory
from experiments.speed._spectra import orthogonality
from experiments.speed._timing import (
    TimingSettings,
    alternate,
    evaluation_run,
    median_ratio,
    note,
    training_run,
)
from taut.export import freeze
from taut.nn import Conv2d, Linear
from taut.parametrizations import cached


@final
@dataclass
class SpeedRow:
    """What one contender needs for one case; None where it was not measured."""

    case: str  # its name
    contender: str  # its name
    note: str = ""  # why there are no numbers, or not all; empty where there are
    # Seconds of a layer's forward and backward, or of a net's training step.
    train: float | None = None
    # Over the plain layer or net, the median over rounds; the other ratios likewise.
    train_ratio: float | None = None
    rounds: int = 0  # that it took part in
    # Seconds of a forward without gradients, inside `taut.cached()` and torch's own cache.
    eval: float | None = None
    eval_ratio: float | None = None
    frozen: float | None = None  # the same of what `taut.freeze` makes of a layer or net of taut
    frozen_ratio: float | None = None
    memory: int | None = None  # peak bytes of training, of nets
    memory_ratio: float | None = None
    error: float | None = None  # largest distance of a singular value from 1
    above: float | None = None  # largest singular value less 1
    floor: float | None = None  # seconds that any exact method takes for a training step


Rows = dict[str, SpeedRow]
Modules = dict[str, nn.Module]


def measure(
    case: Case,
    contenders: Sequence[Contender],
    settings: TimingSettings,
    files: Sequence[Path] = (),
) -> list[SpeedRow]:
    """Times every contender in turns, then looks at memory and orthogonality one by one.

    One that cannot build the case is a row that says why. The processes that measure memory load
    contenders from `files` again.
    """
    rows = {contender.name: SpeedRow(case.name, contender.name) for contender in contenders}
    built: Modules = {}
    for contender in contenders:
        try:
            module = contender.build(case).to(settings.place)
        except Exception as error:  # a foreign layer may raise anything; it becomes a row in words
            rows[contender.name].note = note(error)
            continue
        if TAUT in built and is_same(module, built[TAUT]):
            rows[contender.name].note = "the default: see taut"
        else:
            built[contender.name] = module
    built = _train(rows, built, case, settings)
    _evaluate(rows, built, case, settings)
    for name, module in built.items():
        if name != PLAIN:  # a plain layer claims nothing
            _look(rows[name], module, case, settings)
    if isinstance(case, NetCase):
        _remember(rows, built, case, settings, files)
    return list(rows.values())


def _train(rows: Rows, built: Modules, case: Case, settings: TimingSettings) -> Modules:
    """Fills in training times; returns what does not fail."""
    runs = {}
    for name, module in built.items():
        try:
            runs[name] = training_run(module, case, settings)
        except Exception as error:  # as above
            rows[name].note = note(error)
    times, failed = alternate(
        runs, settings.place, repeats=settings.repeats, seconds=settings.seconds
    )
    for name, why in failed.items():
        rows[name].note = why
    for name, taken in times.items():
        row = rows[name]
        row.train, row.rounds = median(taken), len(taken)
        row.train_ratio = median_ratio(taken, times[PLAIN]) if PLAIN in times else None
    return {name: built[name] for name in times}


def _evaluate(rows: Rows, built: Modules, case: Case, settings: TimingSettings) -> None:
    """Fills in times of evaluation, of frozen modules too, all in turns."""
    modules = {("eval", name): module for name, module in built.items()}
    for name, module in built.items():
        if any(isinstance(part, Conv2d | Linear) for part in module.modules()):
            try:
                modules["frozen", name] = freeze(module, case.input_shape)
            except (ValueError, NotImplementedError) as error:
                rows[name].note = note(error)
    with torch.no_grad(), cached(), parametrize.cached():
        runs = {key: evaluation_run(x, case, settings) for key, x in modules.items()}
        times, _ = alternate(
            runs, settings.place, repeats=settings.repeats, seconds=settings.seconds / 4
        )
    plain = times.get(("eval", PLAIN))
    for (kind, name), taken in times.items():
        ratio = None if plain is None else median_ratio(taken, plain)
        vars(rows[name]).update({kind: median(taken), f"{kind}_ratio": ratio})


def _look(row: SpeedRow, module: nn.Module, case: Case, settings: TimingSettings) -> None:
    """Fills in the orthogonality of what was timed."""
    try:
        with settings.autocast():
            row.error, row.above = orthogonality(module, case)
    except (ValueError, RuntimeError) as error:
        row.note = note(error)


def _remember(
    rows: Rows, built: Modules, case: Case, settings: TimingSettings, files: Sequence[Path]
) -> None:
    """Fills in the peak memory of training, and its ratio to that of the plain net."""
    for name in built:
        try:
            rows[name].memory = peak_memory(case, name, settings, files)
        except RuntimeError as error:
            rows[name].note = note(error)
    plain = rows[PLAIN].memory if PLAIN in rows else None
    for name in built:
        memory = rows[name].memory
        if plain and memory:
            rows[name].memory_ratio = memory / plain
