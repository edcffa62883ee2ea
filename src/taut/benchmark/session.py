"""A folder of results that a stopped run leaves whole and the next one completes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from taut.benchmark.cases import Case, parse_case
from taut.benchmark.contenders import Contender
from taut.benchmark.floors import Rates, measured_rates
from taut.benchmark.machine import environment
from taut.benchmark.plots import save_plots
from taut.benchmark.rows import Row, measure
from taut.benchmark.steps import Settings
from taut.benchmark.table import markdown
from taut.benchmark.trends import growth
from taut.files import write_atomically

RECORD = "record.json"
TABLE = "table.md"
_CHANGING = ("command", "date")


@final
@dataclass(frozen=True)
class Session:
    """What is measured, and how.

    Args:
        cases: in their order.
        contenders: side by side in each.
        settings: of all.
        files: that contenders come from.
        command: as typed, for the record.
    """

    cases: Sequence[Case]
    contenders: Sequence[Contender]
    settings: Settings
    files: Sequence[Path] = ()
    command: str = "taut bench"


@final
@dataclass(frozen=True)
class Results:
    """What a folder holds: environment, settings, rates of the machine, and rows."""

    environment: dict[str, Any]
    settings: Settings
    rates: Rates
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """The content of record.json, growth exponents included."""
        record = {
            "environment": self.environment,
            "settings": asdict(self.settings),
            "rates": self.rates._asdict(),
            "rows": [asdict(row) for row in self.rows],
            "growth": growth(self.rows),
        }
        return json.dumps(record, indent=1) + "\n"


OnCase = Callable[[Case, list[Row]], None]


def run(session: Session, folder: Path, on_case: OnCase = lambda case, rows: None) -> Results:
    """Measures what the folder does not hold yet, and writes record, table and plots into it.

    Record and table are written after each case; the plots at the end, and when it is interrupted.

    Args:
        session: what to measure.
        folder: made if there is none.
        on_case: called with each case and its rows, found ones too.

    Returns:
        All rows of the folder.

    Raises:
        ValueError: if the folder's results were taken otherwise: other settings, machine, versions
            or commit.
        KeyboardInterrupt: with what to do next.
    """
    torch.set_num_threads(session.settings.threads)
    results = _opened(session, folder)
    try:
        for case in session.cases:
            rows = _held(results, case, session.contenders)
            if rows is None:
                torch.manual_seed(0)
                rows = measure(case, session.contenders, session.settings, session.files)
                others = tuple(row for row in results.rows if row.case != case.name)
                results = replace(results, rows=(*others, *rows))
                _write(results, folder)
            on_case(case, rows)
    except KeyboardInterrupt:
        save_plots(results.rows, folder)
        raise KeyboardInterrupt(
            f"stopped. {folder} has what is finished; the same command goes on from there."
        ) from None
    save_plots(results.rows, folder)
    return results


def read_results(folder: Path) -> Results:
    """What a folder holds.

    Raises:
        ValueError: if its record is damaged.
    """
    try:
        found = json.loads((folder / RECORD).read_text())
        rows = tuple(Row(**row) for row in found["rows"])
        for row in rows:
            parse_case(row.case)
        return Results(
            found["environment"], Settings(**found["settings"]), Rates(**found["rates"]), rows
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is damaged and cannot be read ({error}).") from None


def _opened(session: Session, folder: Path) -> Results:
    folder.mkdir(parents=True, exist_ok=True)
    here = environment(session.command)
    if not (folder / RECORD).exists():
        return Results(here, session.settings, measured_rates(session.settings), ())
    results = read_results(folder)
    pairs = [(name, results.environment.get(name), value) for name, value in here.items()]
    stored, wanted = asdict(results.settings), asdict(session.settings)
    pairs += [(name, stored[name], value) for name, value in wanted.items()]
    for name, old, new in pairs:
        if name not in _CHANGING and old != new:
            raise ValueError(
                f"{folder} holds results with {name} {old}, this run has {new}: give another "
                "--out, or remove the folder to measure again."
            )
    return results


def _held(results: Results, case: Case, contenders: Sequence[Contender]) -> list[Row] | None:
    """The rows of a case, if it has one for each contender: they were timed side by side."""
    rows = {row.contender: row for row in results.rows if row.case == case.name}
    names = [contender.name for contender in contenders]
    return [rows[name] for name in names] if all(name in rows for name in names) else None


def _write(results: Results, folder: Path) -> None:
    write_atomically(folder / RECORD, results.to_json().encode())
    write_atomically(folder / TABLE, markdown(results.rows, results.rates).encode())
