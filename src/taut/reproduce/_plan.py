"""Which runs a table takes, where they lie, and whether all can be done before any is begun."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import final, get_args

from taut.data import load
from taut.models import ModelConfig, build
from taut.models.config import PaperArchitecture
from taut.reproduce._protocol import DATASETS, Setting
from taut.reproduce._table import Measure, Row, Table
from taut.reproduce._work import check_attacks, missing
from taut.training import Recipe, Run
from taut.training.run import RECIPE, finished, refuse_other_recipe

# Of one number: in the model, raw with two moments of Adam, in the certificate; and the second once
# more, while a file is replaced by a new one.
_BYTES_PER_NUMBER = 4 + 12 + 4 + 12


@final
@dataclass(frozen=True)
class Trial:
    """One net of one seed.

    Args:
        recipe: how it is trained.
        folder: its run folder.
        data_dir: where its data set lies; None for an embedded one, or where the run says.
        measures: what is measured of it.
    """

    recipe: Recipe
    folder: Path
    data_dir: Path | None
    measures: tuple[Measure, ...]


@final
@dataclass(frozen=True)
class Planned:
    """A row of a table on a data set, with the runs that do it again.

    Args:
        row: of the table.
        dataset: a name that `taut.data.load` knows.
        measures: one a column.
        trials: one a seed; none if the row is quoted.
    """

    row: Row
    dataset: str
    measures: tuple[Measure, ...]
    trials: tuple[Trial, ...]


@final
@dataclass(frozen=True)
class Plan:
    """All that `taut reproduce` is to do for one table.

    Args:
        table: which.
        setting: how much of the protocol.
        rows: what is left of the table, data set by data set.
        out: the folder of the table; its run folders are under `runs`.
    """

    table: Table
    setting: Setting
    rows: tuple[Planned, ...]
    out: Path

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All runs, in the order of the table."""
        return tuple(chain.from_iterable(planned.trials for planned in self.rows))


def make_plan(
    table: Table,
    setting: Setting,
    out: Path,
    *,
    only: Sequence[str] = (),
    epochs: int | None = None,
    data_dir: Path | None = None,
) -> Plan:
    """What there is to do for a table; nothing is read or written.

    Args:
        table: one of `TABLES`.
        setting: one of `SETTINGS`, with the seeds wanted.
        out: the folder of the table.
        only: names of data sets, architectures and methods to keep, in any order and case.
        epochs: instead of those of the setting.
        data_dir: a folder with one folder a data set, called by its name; or that of the only one.

    Returns:
        The plan.

    Raises:
        ValueError: if a word of `only` names nothing in the table, or nothing is left.

    Example:
        >>> from taut.reproduce import SETTINGS, TABLES
        >>> table, setting = TABLES["table1"], SETTINGS["short"]
        >>> plan = make_plan(table, setting, Path("out"), only=["rko", "mnist"])
        >>> [planned.row.system for planned in plan.rows], len(plan.trials)
        (['RKO Small', 'RKO Large'], 6)
    """
    if not setting.seeds or len(set(setting.seeds)) < len(setting.seeds):
        raise ValueError(f"`seeds` must be different numbers, at least one; got {setting.seeds}.")
    words = [word.lower() for word in only]
    _check_words(words, table)
    datasets = [name for name in DATASETS if name in words]
    datasets = datasets or list(setting.datasets or dict.fromkeys(r.dataset for r in table.rows))
    pairs = [(row, name) for name in datasets for row in _rows(table, name) if _kept(row, words)]
    if not any(row.method for row, _ in pairs):
        raise ValueError(f"`only` must leave a row that taut does again; got {' '.join(only)}.")

    def planned(row: Row, dataset: str) -> Planned:
        eps = DATASETS[dataset].radii[table.radius]
        if row.architecture is None or row.method is None:
            measures = tuple(Measure(column.kind, eps, column.first) for column in table.columns)
            return Planned(row, dataset, measures, ())
        measures = tuple(setting.measure(column, eps) for column in table.columns)
        where = data_folder(dataset, data_dir, alone=len(datasets) == 1)
        recipes = [
            setting.recipe(dataset, row.architecture, row.method, seed=seed, epochs=epochs)
            for seed in setting.seeds
        ]
        trials = [
            Trial(recipe, out / "runs" / f"{recipe.name}-seed{recipe.seed}", where, measures)
            for recipe in recipes
        ]
        return Planned(row, dataset, measures, tuple(trials))

    return Plan(table, setting, tuple(planned(*pair) for pair in pairs), out)


def check(plan: Plan) -> tuple[Trial, ...]:
    """Whether the whole plan can be done, before any of it is; nothing is written.

    Args:
        plan: of a table.

    Returns:
        The runs that have something left to train or to measure.

    Raises:
        ValueError: if a run folder is of another recipe or damaged, or the data do not fit.
        FileNotFoundError: if the data are not there.
        ImportError: if an attack needs an extra that is not installed.
        OSError: if the disk has too little room.
    """
    left = tuple(trial for trial in plan.trials if has_something_left(trial))
    if left:
        check_attacks(column.kind for column in plan.table.columns)
    sources = {trial.recipe.dataset: _source(trial) for trial in left}
    for dataset, source in sources.items():
        load(dataset, source)
    _check_disk(plan.out, left)
    return left


def has_something_left(trial: Trial) -> bool:
    """Whether a run is still to be trained or measured.

    Args:
        trial: of a plan.

    Raises:
        ValueError: if its folder holds a run of another recipe, or is damaged.
    """
    if not (trial.folder / RECIPE).is_file():
        return True
    run = Run.open(trial.folder)
    refuse_other_recipe(trial.recipe, run.recipe, trial.folder)
    return not finished(run) or bool(missing(run, trial.measures))


def _source(trial: Trial) -> Path | None:
    if trial.data_dir is None and (trial.folder / RECIPE).is_file():
        return Run.open(trial.folder).data_dir
    return trial.data_dir


def data_folder(dataset: str, data_dir: Path | None, *, alone: bool) -> Path | None:
    """Where a data set lies; None for an embedded one, or where nothing was said.

    Args:
        dataset: a name that `taut.data.load` knows.
        data_dir: a folder with one folder a data set, called by its name; or that of the only one.
        alone: whether no other data set is needed.

    Example:
        >>> data_folder("no-such-set", Path("data"), alone=False).as_posix()
        'data/no-such-set'
    """
    if data_dir is None or dataset == "fashion-mnist-subset":
        return None
    folder = data_dir / dataset
    return data_dir if alone and not folder.exists() else folder


def _check_disk(out: Path, left: Iterable[Trial]) -> None:
    sizes: dict[ModelConfig, int] = {}
    needed = 0
    for trial in left:
        model = trial.recipe.model
        if model not in sizes:
            sizes[model] = sum(tensor.numel() for tensor in build(model).state_dict().values())
        if not (trial.folder / RECIPE).is_file():
            needed += _BYTES_PER_NUMBER * sizes[model]
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"{place} has too little room: the runs that are missing need about "
            f"{needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free."
        )


def _rows(table: Table, dataset: str) -> list[Row]:
    """The rows of a table for a data set; for an extension those of the one it stands for."""
    data = DATASETS[dataset]
    if data.stands_for is None and any(row.dataset == dataset for row in table.rows):
        return [row for row in table.rows if row.dataset == dataset]
    published = list(dict.fromkeys(row.dataset for row in table.rows))
    model = data.stands_for if data.stands_for in published else published[0]
    rows = [row for row in table.rows if row.dataset == model]
    if data.beside:
        return rows
    return [replace(row, published=()) for row in rows if row.method is not None]


def _kept(row: Row, words: Sequence[str]) -> bool:
    systems = set(words) - set(DATASETS)
    architectures = systems & set(get_args(PaperArchitecture))
    methods = systems - architectures
    return (not architectures or row.architecture in architectures) and (
        not methods or (row.method or "").lower() in methods
    )


def _check_words(words: Sequence[str], table: Table) -> None:
    again = [row for row in table.rows if row.method is not None]
    known = dict.fromkeys([*DATASETS, *(row.architecture for row in again)])
    known |= dict.fromkeys(str(row.method) for row in again)
    names = {str(name).lower(): str(name) for name in known}
    unknown = [word for word in words if word not in names]
    if unknown:
        raise ValueError(
            f"`only` takes, for {table.name}, {', '.join(names.values())}; got {unknown[0]!r}."
        )
