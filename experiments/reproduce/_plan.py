"""Which runs a table of classifiers takes, whether all can be done, and what is known of them."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, final

from experiments._models import PAPER_ARCHITECTURES
from experiments._record import Record
from experiments._training import opened, origin, say, trained
from experiments.reproduce._page import ComparisonPage, Line
from experiments.reproduce._protocol import DATASETS, ClassifierSetting
from experiments.reproduce._published import Measure, PublishedTable, TableRow
from experiments.reproduce._work import PROTOCOL, measured, missing, take
from taut.data import load
from taut.training import Device, Recipe, choose_device

# Of one number: in the model, raw with two moments of Adam, in the certificate; and the second once
# more, while a file is replaced by a new one.
_BYTES_PER_NUMBER = 4 + 12 + 4 + 12


@final
@dataclass(frozen=True)
class PlannedRun:
    """One net of one seed."""

    recipe: Recipe  # how it is trained
    folder: Path  # its run folder
    # Where its data set lies; None for an embedded one, or where the run says.
    data_dir: Path | None
    measures: tuple[Measure, ...]  # what is measured of it

    def done(self) -> bool:
        """Whether it is trained and measured; refuses a folder of another recipe."""
        run = opened(self.recipe, self.folder)
        return run is not None and run.finished() and not missing(run, self.measures)


@final
@dataclass(frozen=True)
class PlannedRow:
    """A row of a table on a data set, with the runs that do it again; none if it is quoted."""

    row: TableRow
    dataset: str
    measures: tuple[Measure, ...]
    runs: tuple[PlannedRun, ...]

    def lines(self) -> list[Line]:
        """What is known so far; trains and measures nothing."""
        row, data = self.row, DATASETS[self.dataset]
        runs = [opened(run.recipe, run.folder) for run in self.runs]
        values = [measured(run) for run in runs if run is not None and run.finished()]
        quoted = row.method is None
        return [
            Line(
                system=row.system,
                dataset=DATASETS[row.dataset].label if quoted else data.label,
                measure=measure,
                ours=tuple(100 * v[measure.label] for v in values if measure.label in v),
                published=value,
                quoted=quoted,
                comparable=not data.beside,
            )
            for measure, value in zip(
                self.measures, row.published or [None] * len(self.measures), strict=True
            )
        ]


@final
@dataclass(frozen=True)
class TablePlan:
    """All that is to do for one table."""

    table: PublishedTable  # which
    setting: ClassifierSetting  # how much of the protocol
    rows: tuple[PlannedRow, ...]  # what is left of the table, data set by data set
    out: Path  # the folder of the table; its run folders are under `runs`

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """In the order of the table."""
        return tuple(chain.from_iterable(planned.runs for planned in self.rows))

    def complete(self, device: Device, record: Record) -> None:
        """Train and measure what is missing; each run folder says where it was trained."""
        left = check(self)
        for number, run in enumerate(left, 1):
            say(f"run {number} of {len(left)}: {run.folder}")
            where = run.data_dir
            model = trained(run.recipe, run.folder, record, data_dir=where, device=device)
            take(model, run.measures, choose_device(device))

    def done(self) -> int:
        """How many runs are trained and measured."""
        return sum(run.done() for run in self.runs)

    def recorded(self) -> dict[str, Any]:
        """The setting, and every run that the lines rest on."""
        runs = [run for each in self.runs if (run := opened(each.recipe, each.folder)) is not None]
        return {
            "setting": self.setting.name,
            "runs": [
                {
                    "recipe": json.loads(run.recipe.to_json()),
                    "trained": origin(run),
                    "measured": measured(run),
                }
                for run in runs
            ],
        }

    def page(self) -> ComparisonPage:
        """What is known so far."""
        epochs = dict.fromkeys(
            f"{run.recipe.epochs} epochs ({planned.row.architecture})"
            for planned in self.rows
            for run in planned.runs
        )
        counts = {run.recipe.epochs for run in self.runs}
        said = ", ".join(epochs) if len(counts) > 1 else _count(counts.pop(), "epoch")
        seeds = ", ".join(map(str, self.setting.seeds))
        lines = tuple(line for planned in self.rows for line in planned.lines())
        return ComparisonPage(
            name=self.table.name,
            title=self.table.title,
            setting=f"{self.setting.name}: {self.setting.summary}; {said}; seeds {seeds}",
            lines=lines,
            notes=tuple(_notes(self, lines)),
            out=self.out,
            columns=len(self.table.columns),
            axis="accuracy, %",
        )


def make_plan(
    table: PublishedTable,
    setting: ClassifierSetting,
    out: Path,
    *,
    only: Sequence[str] = (),
    epochs: int | None = None,
    data_dir: Path | None = None,
) -> TablePlan:
    """What there is to do for a table; nothing is read or written.

    Of `only` data sets, architectures and methods are kept, in any order and case.
    """
    again = [row for row in table.rows if row.method is not None]
    names = [*DATASETS, *(str(row.architecture) for row in again), *(str(r.method) for r in again)]
    kept = named(only, names, table.name)
    datasets = [name for name in DATASETS if name in kept]
    datasets = datasets or list(setting.datasets or dict.fromkeys(r.dataset for r in table.rows))
    pairs = [(row, name) for name in datasets for row in _rows(table, name) if _kept(row, kept)]
    if not any(row.method for row, _ in pairs):
        raise ValueError(f"`only` must leave a row that taut does again; got {' '.join(only)}.")

    def planned(row: TableRow, dataset: str) -> PlannedRow:
        eps = DATASETS[dataset].radii[table.radius]
        if row.architecture is None or row.method is None:
            measures = tuple(Measure(column.kind, eps, column.first) for column in table.columns)
            return PlannedRow(row, dataset, measures, ())
        measures = tuple(setting.measure(column, eps) for column in table.columns)
        where = data_folder(dataset, data_dir, alone=len(datasets) == 1)
        runs = []
        for seed in setting.seeds:
            recipe = setting.recipe(dataset, row.architecture, row.method, seed=seed, epochs=epochs)
            folder = out / "runs" / f"{recipe.name}-seed{seed}"
            runs.append(PlannedRun(recipe, folder, where, measures))
        return PlannedRow(row, dataset, measures, tuple(runs))

    return TablePlan(table, setting, tuple(planned(*pair) for pair in pairs), out)


def named(only: Sequence[str], names: Iterable[str], table: str) -> set[str]:
    """The words of `only`, in any case, as the table spells them."""
    known = {name.lower(): name for name in names}
    for word in only:
        if word.lower() not in known:
            raise ValueError(
                f"`only` takes, for {table}, {', '.join(known.values())}; got {word!r}."
            )
    return {known[word.lower()] for word in only}


def _rows(table: PublishedTable, dataset: str) -> list[TableRow]:
    """The rows of a table for a data set; for an extension those of the one it stands for."""
    data = DATASETS[dataset]
    published = list(dict.fromkeys(row.dataset for row in table.rows))
    if data.stands_for is None and dataset in published:
        return [row for row in table.rows if row.dataset == dataset]
    model = data.stands_for if data.stands_for in published else published[0]
    rows = [row for row in table.rows if row.dataset == model]
    if data.beside:
        return rows
    return [replace(row, published=()) for row in rows if row.method is not None]


def _kept(row: TableRow, names: set[str]) -> bool:
    architectures = names & set(PAPER_ARCHITECTURES)
    methods = names - architectures - set(DATASETS)
    return (not architectures or row.architecture in architectures) and (
        not methods or row.method in methods
    )


def data_folder(dataset: str, data_dir: Path | None, *, alone: bool) -> Path | None:
    """Where a data set lies; None for an embedded one, or where nothing was said.

    >>> data_folder("no-such-set", Path("data"), alone=False).as_posix()
    'data/no-such-set'
    """
    if data_dir is None or dataset == "fashion-mnist-subset":
        return None
    folder = data_dir / dataset
    return data_dir if alone and not folder.exists() else folder


def check(plan: TablePlan) -> list[PlannedRun]:
    """The runs with something left to do, once it is sure that all can be done; writes nothing."""
    left = [run for run in plan.runs if not run.done()]
    if left:
        for column in plan.table.columns:
            if column.kind in PROTOCOL:
                PROTOCOL[column.kind].build()  # fails now as an attack would hours later
    sources = {}
    for planned in left:
        run, where = opened(planned.recipe, planned.folder), planned.data_dir
        known = run.data_dir if where is None and run is not None else where
        sources[planned.recipe.dataset] = known
    for dataset, source in sources.items():
        load(dataset, source)
    _check_disk(plan.out, left)
    return left


def _check_disk(out: Path, left: Iterable[PlannedRun]) -> None:
    sizes: dict[Any, int] = {}  # by net
    needed = 0
    for run in left:
        recipe = run.recipe
        net = (recipe.model, recipe.parametrization, recipe.input_shape)
        if net not in sizes:
            sizes[net] = sum(x.numel() for x in recipe.build_model().state_dict().values())
        if opened(run.recipe, run.folder) is None:
            needed += _BYTES_PER_NUMBER * sizes[net]
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"{place} has too little room: the runs that are missing need about "
            f"{needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free."
        )


def _notes(plan: TablePlan, lines: Sequence[Line]) -> list[str]:
    notes = [
        "Percent of the test set. Ours: mean ± standard deviation over seeds; certified for the "
        "float64 program."
    ]
    published = dict.fromkeys(p.row.source for p in plan.rows if p.row.published)
    if published:
        notes.append(
            f"Published: {'; '.join(published)}; its nets: 200 epochs, 5 seeds. Difference: "
            "ours less the published mean."
        )
    for dataset in dict.fromkeys(p.dataset for p in plan.rows if not p.row.published):
        protocol = DATASETS[DATASETS[dataset].stands_for or dataset]
        notes.append(
            f"{DATASETS[dataset].label}: an extension, by the protocol of {protocol.label}."
        )
    columns = [pair for p in plan.rows for pair in zip(p.measures, plan.table.columns, strict=True)]
    if published and any(measure.images != column.first for measure, column in columns):
        notes.append(
            "Where it says first so many, ours is of those test images; the published value of all."
        )
    if any(line.quoted for line in lines):
        notes.append("Quoted only: systems of other authors, which taut does not do again.")
    if any(not line.comparable for line in lines):
        notes.append("† Published for CIFAR-10 itself, another data set: no difference is given.")
    if plan.done() < len(plan.runs):
        notes.append(f"So far {plan.done()} of {_count(len(plan.runs), 'run')}.")
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
