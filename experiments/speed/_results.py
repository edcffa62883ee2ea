"""A folder of results that a stopped run leaves whole and the next one completes."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import final

import torch

from experiments._record import Record
from experiments._show import markdown, number
from experiments.speed._cases import Case, parse_case
from experiments.speed._contenders import Contender
from experiments.speed._floors import Rates, floor, measured_rates
from experiments.speed._growth import growth, save_plots
from experiments.speed._rows import SpeedRow, measure
from experiments.speed._spectra import Accuracy, accuracy
from experiments.speed._timing import TimingSettings
from taut.files import write_atomically

RECORD, TABLE = "record.json", "table.md"
HEADER = (
    *("case", "contender", "train", "x plain", "eval x", "frozen x", "memory x"),
    *("|σ-1|", "σ-1", "note"),
)


@final
class Results:
    """What a folder holds: rows by group, accuracies, and the rates of the machine."""

    def __init__(self, folder: Path, settings: TimingSettings, command: str) -> None:
        self.folder, self.settings = folder, settings
        self.record = Record(folder / RECORD, command)
        self.record.resume(asdict(settings))
        content = self.record.content
        try:
            self.rates = (
                Rates(**content["rates"]) if "rates" in content else measured_rates(settings)
            )
            groups = content.get("rows", {}).items()
            self.rows = {group: [SpeedRow(**row) for row in rows] for group, rows in groups}
            self.accuracies = [Accuracy(**row) for row in content.get("accuracy", ())]
        except (TypeError, AttributeError) as error:
            path = self.record.path
            raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None

    def measured(
        self, group: str, case: Case, contenders: Sequence[Contender], files: Sequence[Path] = ()
    ) -> list[SpeedRow]:
        """The rows of a case; measured now unless there is one of each: they stand side by side."""
        contenders = [x for x in contenders if x.takes(case, self.settings.place)]
        others = self.rows.setdefault(group, [])
        known = {row.contender: row for row in others if row.case == case.name}
        names = [contender.name for contender in contenders]
        if all(name in known for name in names):
            return [known[name] for name in names]
        rows = measure(case, contenders, self.settings, files)
        for row in rows:
            if row.train is not None:
                row.floor = floor_seconds(case, self.rates)
        self.rows[group] = [*(row for row in others if row.case != case.name), *rows]
        self.write()
        return rows

    def accuracy(self, case: str, contender: str, raws: str) -> Accuracy:
        """Of one contender for raw tensors of one kind; measured now unless it is known."""
        for known in self.accuracies:
            if (known.case, known.contender, known.raws) == (case, contender, raws):
                return known
        self.accuracies.append(accuracy(case, contender, raws, self.settings))
        self.write()
        return self.accuracies[-1]

    def write(self) -> None:
        """Record and table; the record includes exponents of growth."""
        every = list(chain.from_iterable(self.rows.values()))
        self.record.keep(
            rates=self.rates._asdict(),
            precision={
                "products": torch.get_float32_matmul_precision(),
                "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
            },
            rows={group: [asdict(row) for row in rows] for group, rows in self.rows.items()},
            accuracy=[asdict(row) for row in self.accuracies],
            growth=growth(every),
        )
        header = [name.replace("|", "\\|") for name in HEADER]
        table = [[cell.replace("|", "/") for cell in row] for row in cells(every, self.rates)]
        write_atomically(self.folder / TABLE, markdown(header, table).encode())

    def plot(self) -> None:
        save_plots(list(chain.from_iterable(self.rows.values())), self.folder)


def floor_seconds(case: Case, rates: Rates) -> float | None:
    """Seconds that any exact method takes; None where nothing is derived for a case."""
    try:
        return floor(case).seconds(rates)
    except ValueError:
        return None


def cells(rows: Sequence[SpeedRow], rates: Rates) -> list[tuple[str, ...]]:
    """The rows as text under `HEADER`; after each case comes the floor of exact methods."""
    text = []
    for case in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == case]
        text += [_cells(row) for row in mine]
        seconds = floor_seconds(parse_case(case), rates)
        if seconds is None:
            continue
        # The plain layer's time and ratio give its scale: a ratio of medians here.
        scales = (row.train / row.train_ratio for row in mine if row.train and row.train_ratio)
        plain = next(scales, None)
        ratio = number(seconds / plain if plain else None)
        text.append((case, "floor", duration(seconds), ratio, *"-----", ""))
    return text


def _cells(row: SpeedRow) -> tuple[str, ...]:
    ratios = (row.train_ratio, row.eval_ratio, row.frozen_ratio, row.memory_ratio)
    return (
        row.case,
        row.contender,
        duration(row.train),
        *map(number, ratios),
        number(row.error, form=".1e"),
        number(row.above, form="+.1e"),
        row.note,
    )


def duration(seconds: float | None) -> str:
    """Milliseconds with three digits.

    >>> duration(0.01234), duration(2.5), duration(None)
    ('12.3 ms', '2.50 s', '-')
    """
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    value = 1e3 * seconds
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"
