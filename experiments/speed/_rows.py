"""One case, all contenders, side by side: one row each, of the setting that is its fastest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import final

import torch
from torch import nn
from torch.nn.utils import parametrize

from experiments.speed._cases import Case, NetCase
from experiments.speed._contenders import PLAIN, TAUT, Contender, contenders, is_same
from experiments.speed._launches import launches
from experiments.speed._memory import peak_memory
from experiments.speed._modes import Batched, Captured, compiled
from experiments.speed._spectra import orthogonality
from experiments.speed._timing import (
    TimingSettings,
    Work,
    evaluation_run,
    median_ratio,
    note,
    training_run,
)
from experiments.speed._ways import Best, Way, fastest, ways
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
    # Over the fastest plain layer or net, the median over rounds; the other ratios likewise.
    train_ratio: float | None = None
    train_setting: str = ""  # the padding and the memory format that were the fastest
    rounds: int = 0  # that it took part in
    # Seconds of a forward without gradients, inside `taut.cached()` and torch's own cache.
    eval: float | None = None
    eval_ratio: float | None = None
    eval_setting: str = ""
    frozen: float | None = None  # the same of what `taut.freeze` makes of a layer or net of taut
    frozen_ratio: float | None = None
    frozen_setting: str = ""
    memory: int | None = None  # peak bytes of training, of nets
    memory_ratio: float | None = None
    launches: int | None = None  # of kernels in a training step on a GPU
    syncs: int | None = None  # waits for the GPU in it
    error: float | None = None  # largest distance of a singular value from 1
    above: float | None = None  # largest singular value less 1
    floor: float | None = None  # seconds that any exact method takes for a training step


Rows = dict[str, SpeedRow]
_WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "batched": Batched,
    "captured": Batched,  # as `taut train` runs a net
}


@final
@dataclass(frozen=True)
class Candidate:
    """A contender built for a case, in one of its ways."""

    contender: Contender
    way: Way
    module: nn.Module
    case: Case
    settings: TimingSettings

    def training(self) -> Work:
        """What training repeats."""
        x = self.way.images(self.case, self.settings)
        optimiser = self.contender.optimiser(self.module) if self.is_net else None
        return self._as_mode(self.module, partial(training_run, x=x, optimiser=optimiser))

    def evaluation(self) -> Work:
        """What evaluation repeats."""
        x = self.way.images(self.case, self.settings)
        return self._as_mode(self.module, partial(evaluation_run, x=x))

    def frozen_evaluation(self) -> Work:
        """What evaluation repeats of the frozen module."""
        x = self.way.images(self.case, self.settings)
        module = self.way.in_format(freeze(self.module, self.case.input_shape))
        return self._as_mode(module, partial(evaluation_run, x=x))

    @property
    def is_net(self) -> bool:
        return isinstance(self.case, NetCase)

    @property
    def is_ours(self) -> bool:
        """Whether it has layers of taut."""
        return any(isinstance(part, Conv2d | Linear) for part in self.module.modules())

    def _as_mode(self, module: nn.Module, make: Callable[..., Work]) -> Work:
        mode = self.contender.mode
        if mode in _WRAPPERS:
            module = _WRAPPERS[mode](module)
        run = make(module, self.case, self.settings)
        return Captured(run) if mode == "captured" else run


Candidates = dict[Way, Candidate]


def measure(
    case: Case,
    chosen: Sequence[Contender],
    settings: TimingSettings,
    files: Sequence[Path] = (),
) -> list[SpeedRow]:
    """Times every contender in turns, then looks at memory and orthogonality one by one.

    Each is timed in either memory format; its row is that of the faster one. One that cannot build
    the case is a row that says why. The processes that measure memory load contenders from `files`
    again.
    """
    torch.compiler.reset()  # the limit of compilations is one for all nets
    rows = {contender.name: SpeedRow(case.name, contender.name) for contender in chosen}
    candidates = _build(rows, chosen, case, settings)
    members = {
        x.name: [way for way in candidates if way.contender in (x.name, *x.rivals)] for x in chosen
    }
    best = _train(rows, candidates, members, settings)
    _evaluate(rows, candidates, {name: members[name] for name in best}, settings)
    for name, way in best.items():
        if candidates[way].contender.padding == "":  # a plain layer claims nothing
            _look(rows[name], candidates[way])
    if isinstance(case, NetCase):
        usual = {name: way for name, way in best.items() if not candidates[way].contender.mode}
        _remember(rows, usual, case, settings, files)
    return list(rows.values())


def _build(
    rows: Rows, chosen: Sequence[Contender], case: Case, settings: TimingSettings
) -> Candidates:
    """Every contender in every way, and those that a row needs beside its own contender."""
    known = {**contenders(), **{contender.name: contender for contender in chosen}}
    names = dict.fromkeys([*rows, *(rival for x in chosen for rival in x.rivals)])
    candidates: Candidates = {}
    default: nn.Module | None = None
    for contender in (known[name] for name in names):
        try:
            modules = {way: way.build(contender, case, settings) for way in ways(contender, case)}
        except Exception as error:  # a foreign layer may raise anything; it becomes a row in words
            if contender.name in rows:
                rows[contender.name].note = note(error)
            continue
        built = next(iter(modules.values()))
        if contender.name == TAUT:
            default = built
        elif contender.is_usual and default is not None and is_same(built, default):
            rows[contender.name].note = "the default: see taut"
            continue
        for way, module in modules.items():
            candidates[way] = Candidate(contender, way, module, case, settings)
    return candidates


def _train(
    rows: Rows, candidates: Candidates, members: dict[str, list[Way]], settings: TimingSettings
) -> dict[str, Way]:
    """Fills in training times; returns the fastest way of each row that has one."""
    makers = {way: candidate.training for way, candidate in candidates.items()}
    best, notes = fastest(makers, members, settings, settings.seconds)
    for name, why in notes.items():
        rows[name].note = why
    for name, chosen in best.items():
        _fill(rows[name], "train", chosen, best.get(PLAIN))
        rows[name].rounds = len(chosen.times)
        if settings.place.type == "cuda" and candidates[chosen.way].contender.mode != "captured":
            rows[name].launches, rows[name].syncs = launches(chosen.run)
    return {name: chosen.way for name, chosen in best.items()}


def _evaluate(
    rows: Rows, candidates: Candidates, members: dict[str, list[Way]], settings: TimingSettings
) -> None:
    """Fills in times of evaluation, of frozen modules too, all in turns."""
    makers: dict[tuple[str, Way], Callable[[], Work]] = {}
    kinds: dict[tuple[str, str], list[tuple[str, Way]]] = {}
    for name, own in members.items():
        for way in own:
            candidate = candidates[way]
            runs = {"eval": candidate.evaluation, "frozen": candidate.frozen_evaluation}
            if candidate.contender.mode:
                runs.pop("eval" if candidate.is_ours else "frozen")
            elif not candidate.is_ours:
                runs.pop("frozen")
            for kind, make in runs.items():
                makers[kind, way] = make
                kinds.setdefault((kind, name), []).append((kind, way))
    with torch.no_grad(), cached(), parametrize.cached():
        best, notes = fastest(makers, kinds, settings, settings.seconds / 4)
    for (_, name), why in notes.items():
        rows[name].note = why
    for (kind, name), chosen in best.items():
        _fill(rows[name], kind, chosen, best.get(("eval", PLAIN)))


def _fill(row: SpeedRow, kind: str, chosen: Best, plain: Best | None) -> None:
    """Seconds, setting and ratio of a row."""
    way = chosen.way if isinstance(chosen.way, Way) else chosen.way[1]
    ratio = None if plain is None else median_ratio(chosen.times, plain.times)
    values = {kind: median(chosen.times), f"{kind}_ratio": ratio, f"{kind}_setting": way.setting}
    vars(row).update(values)


def _look(row: SpeedRow, candidate: Candidate) -> None:
    """Fills in the orthogonality of what was timed."""
    try:
        with candidate.settings.autocast():
            row.error, row.above = orthogonality(candidate.module, candidate.case)
    except (ValueError, RuntimeError) as error:
        row.note = note(error)


def _remember(
    rows: Rows, best: dict[str, Way], case: Case, settings: TimingSettings, files: Sequence[Path]
) -> None:
    """Fills in the peak memory of training, and its ratio to that of the fastest plain net."""
    peaks: dict[Way, int] = {}
    for name, way in best.items():
        try:
            if way not in peaks:
                peaks[way] = peak_memory(case, way, settings, files)
            rows[name].memory = peaks[way]
        except RuntimeError as error:
            rows[name].note = note(error)
    plain = rows[PLAIN].memory if PLAIN in rows else None
    for row in rows.values():
        if plain and row.memory:
            row.memory_ratio = row.memory / plain
