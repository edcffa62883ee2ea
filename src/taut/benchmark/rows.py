"""One case, all contenders, side by side: one row each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import final

import torch
from torch import nn
from torch.nn.utils import parametrize

from taut.benchmark.cases import Case, NetCase
from taut.benchmark.contenders import PLAIN, TAUT, Contender, is_same
from taut.benchmark.memory import peak_memory
from taut.benchmark.spectra import orthogonality
from taut.benchmark.steps import Settings, evaluation_run, training_run
from taut.benchmark.timing import Run, alternate, median_ratio, sentence
from taut.deploy import freeze
from taut.nn import Conv2d, Linear
from taut.parametrizations import cached


@final
@dataclass(frozen=True)
class Row:
    """What one contender needs for one case; None where it was not measured.

    Args:
        case: its name.
        contender: its name.
        note: why there are no numbers, or not all; empty where there are.
        train: seconds of a layer's forward and backward, or of a net's training step.
        train_ratio: over the plain layer or net, the median over rounds; `eval_ratio`,
            `frozen_ratio` and `memory_ratio` likewise.
        rounds: that it took part in.
        eval: seconds of a forward without gradients, inside `taut.cached()` and torch's own cache.
        frozen: the same of what `taut.freeze` makes of a layer or net of taut.
        memory: peak bytes of training, of nets.
        error: largest distance of a singular value from 1.
        above: largest singular value less 1.
    """

    case: str
    contender: str
    note: str = ""
    train: float | None = None
    train_ratio: float | None = None
    rounds: int = 0
    eval: float | None = None
    eval_ratio: float | None = None
    frozen: float | None = None
    frozen_ratio: float | None = None
    memory: int | None = None
    memory_ratio: float | None = None
    error: float | None = None
    above: float | None = None


def measure(
    case: Case,
    contenders: Sequence[Contender],
    settings: Settings,
    files: Sequence[Path] = (),
) -> list[Row]:
    """Times every contender in turns, then looks at memory and orthogonality one by one.

    Args:
        case: what to build.
        contenders: who builds it; one that cannot is a row that says why.
        settings: device, precision, rounds, threads.
        files: that contenders come from, for the processes that measure memory.

    Returns:
        A row each, in their order.

    Example:
        >>> from taut.benchmark import parse_layer, select
        >>> rows = measure(parse_layer("4x4x3@4b1"), select(["taut"]), Settings(repeats=1))
        >>> [(row.contender, row.rounds) for row in rows]
        [('plain', 1), ('taut', 1)]
    """
    rows = {contender.name: Row(case.name, contender.name) for contender in contenders}
    built: dict[str, nn.Module] = {}
    for contender in contenders:
        try:
            module = contender.build(case).to(settings.place)
        except Exception as error:  # a foreign layer may raise anything; it becomes a row in words
            rows[contender.name] = replace(rows[contender.name], note=sentence(error))
            continue
        if TAUT in built and is_same(module, built[TAUT]):
            rows[contender.name] = replace(rows[contender.name], note="the default: see taut")
            continue
        built[contender.name] = module
    _train(rows, built, case, settings)
    _evaluate(rows, built, case, settings)
    for name, module in built.items():
        rows[name] = _look(rows[name], module, case, settings)
    if isinstance(case, NetCase):
        _remember(rows, built, case, settings, files)
    return list(rows.values())


def _train(
    rows: dict[str, Row], built: dict[str, nn.Module], case: Case, settings: Settings
) -> None:
    """Fills in training times; drops from `built` what fails."""
    runs: dict[str, Run] = {}
    for name, module in list(built.items()):
        try:
            runs[name] = training_run(module, case, settings)
        except Exception as error:  # as above
            rows[name] = replace(rows[name], note=sentence(error))
            del built[name]
    times, failed = alternate(
        runs, settings.place, repeats=settings.repeats, seconds=settings.seconds
    )
    for name, note in failed.items():
        rows[name] = replace(rows[name], note=note)
        del built[name]
    for name, taken in times.items():
        ratio = median_ratio(taken, times[PLAIN]) if PLAIN in times else None
        found = {"train": median(taken), "train_ratio": ratio, "rounds": len(taken)}
        rows[name] = replace(rows[name], **found)


def _evaluate(
    rows: dict[str, Row], built: dict[str, nn.Module], case: Case, settings: Settings
) -> None:
    """Fills in times of evaluation, of frozen modules too, all in turns."""
    modules = {("eval", name): module for name, module in built.items()}
    for name, module in built.items():
        if any(isinstance(part, Conv2d | Linear) for part in module.modules()):
            try:
                modules["frozen", name] = freeze(module)
            except (ValueError, NotImplementedError) as error:
                rows[name] = replace(rows[name], note=sentence(error))
    with torch.no_grad(), cached(), parametrize.cached():
        runs = {key: evaluation_run(x, case, settings) for key, x in modules.items()}
        times, _ = alternate(
            runs, settings.place, repeats=settings.repeats, seconds=settings.seconds / 4
        )
    plain = times.get(("eval", PLAIN))
    for (kind, name), taken in times.items():
        ratio = None if plain is None else median_ratio(taken, plain)
        rows[name] = replace(rows[name], **{kind: median(taken), f"{kind}_ratio": ratio})


def _look(row: Row, module: nn.Module, case: Case, settings: Settings) -> Row:
    """The row with the orthogonality of what was timed; a plain layer claims none."""
    if row.contender == PLAIN:
        return row
    try:
        with settings.autocast():
            found = orthogonality(module, case)
    except (ValueError, RuntimeError) as error:
        return replace(row, note=sentence(error))
    return replace(row, error=found.error, above=found.above)


def _remember(
    rows: dict[str, Row],
    built: dict[str, nn.Module],
    case: Case,
    settings: Settings,
    files: Sequence[Path],
) -> None:
    """Fills in the peak memory of training, and its ratio to that of the plain net."""
    for name in built:
        try:
            rows[name] = replace(rows[name], memory=peak_memory(case, name, settings, files))
        except RuntimeError as error:
            rows[name] = replace(rows[name], note=sentence(error))
    plain = rows[PLAIN].memory if PLAIN in rows else None
    for name in built:
        memory = rows[name].memory
        if plain and memory:
            rows[name] = replace(rows[name], memory_ratio=memory / plain)
