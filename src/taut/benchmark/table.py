"""Rows as a table: on a terminal and in markdown."""

from collections.abc import Sequence

from taut.benchmark.cases import parse_case
from taut.benchmark.floors import Rates, floor
from taut.benchmark.rows import Row

FLOOR = "floor"
HEADER = (
    "case",
    "contender",
    "train",
    "x plain",
    "eval x",
    "frozen x",
    "memory x",
    "|σ-1|",
    "σ-1",
    "note",
)


def cells(rows: Sequence[Row], rates: Rates) -> list[tuple[str, ...]]:
    """The rows as text under `HEADER`; after each case comes the floor of exact methods.

    Args:
        rows: those of a case together.
        rates: of the machine, for the floor.

    Example:
        >>> found = cells([Row("8x8x3@16b16", "plain", train=0.001)], Rates(1e9, 1e9))
        >>> found[0][:4], found[1][1]
        (('8x8x3@16b16', 'plain', '1.00 ms', '-'), 'floor')
    """
    found = []
    for case in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == case]
        found += [_cells(row) for row in mine]
        found += _floor_cells(case, mine, rates)
    return found


def markdown(rows: Sequence[Row], rates: Rates) -> str:
    """The table as markdown.

    Example:
        >>> markdown([], Rates(1e9, 1e9)).splitlines()[0][:18]
        '| case | contender'
    """
    header = [name.replace("|", "\\|") for name in HEADER]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in cells(rows, rates):
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.case,
        row.contender,
        duration(row.train),
        _ratio(row.train_ratio),
        _ratio(row.eval_ratio),
        _ratio(row.frozen_ratio),
        _ratio(row.memory_ratio),
        "-" if row.error is None else f"{row.error:.1e}",
        "-" if row.above is None else f"{row.above:+.1e}",
        row.note,
    )


def _floor_cells(case: str, rows: Sequence[Row], rates: Rates) -> list[tuple[str, ...]]:
    try:
        seconds = floor(parse_case(case)).seconds(rates)
    except ValueError:
        return []
    # The plain layer's time and ratio give its scale: a ratio of medians here.
    plain = next((row.train / row.train_ratio for row in rows if row.train and row.train_ratio), 0)
    ratio = seconds / plain if plain else None
    return [(case, FLOOR, duration(seconds), _ratio(ratio), *"-----", "")]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """Milliseconds with three digits.

    Example:
        >>> duration(0.01234), duration(2.5), duration(None)
        ('12.3 ms', '2.50 s', '-')
    """
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    value = 1e3 * seconds
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"
