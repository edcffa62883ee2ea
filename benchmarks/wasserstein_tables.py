"""The tables of docs/wasserstein.md, from records/wasserstein/."""

import json
from itertools import product
from typing import Any

from benchmarks.environment import ROOT
from taut.reproduce import BOUND, CLAIMED, LOWER


def known() -> str:
    head = "| case | dimension | truth | lower | share | upper | interval | critic |"
    lines = []
    for row in (*_rows("known"), *_rows("many")):
        low, high = row["interval"]
        share = f"{100 * row['lower'] / row['truth']:.1f} %" if row["truth"] else "–"
        numbers = (f"{row[name]:.4g}" for name in ("truth", "lower"))
        interval = f"{low:.4g} to {high:.4g}"
        cells = (row["case"], str(row["dimension"]), *numbers, share, f"{row['upper']:.4g}")
        lines.append(_line(*cells, interval, row["chosen"]))
    return _table(head, lines)


def coverage() -> str:
    head = "| case | dimension | repeats | interval above the truth | below it |"
    keys = ("case", "dimension", "repeats", "above the truth", "below the truth")
    return _table(head, [_line(*(str(row[key]) for key in keys)) for row in _rows("coverage")])


def images() -> str:
    head = "| critic | claims | proved bound | proves |"
    lines = []
    for row in _rows("images"):
        if "claimed" in row:
            cells = (f"{row[name]:.4g}" for name in ("claimed", "bound", "proved"))
            lines.append(_line(row["case"], *cells))
        else:
            low, high = row["interval"]
            cells = f"{row['bound']:.4g}", f"{row['lower']:.4g} (at most {row['upper']:.4g})"
            name = f"`estimate`, {row['chosen']}, {row['seconds']:.0f} s"
            lines.append(_line(name, f"{low:.4g} to {high:.4g}", *cells))
    return _table(head, lines)


def table4() -> str:
    """A row a pair and activation, a column a method, from the records of `taut reproduce`."""
    head = "| pair | activation | OSSN | RKO | BCOP | WGAN-GP claims | its proved bound |"
    found: dict[tuple[str, str, str], str] = {}
    for path in sorted((ROOT / "records" / "tables").glob("table4*.json")):
        for line in json.loads(path.read_text())["lines"]:
            value = f"{line['mean']:.3f} ± {line['std']:.3f}"
            found[line["data"], line["system"], line["measure"]] = value
    pairs = dict.fromkeys(pair for pair, _, _ in found)
    lines = []
    for pair, activation in product(pairs, ("MaxMin", "ReLU")):
        lower = [
            found[pair, f"{name}, {activation}", LOWER.label] for name in ("OSSN", "RKO", "BCOP")
        ]
        penalised = [found[pair, "WGAN-GP", measure.label] for measure in (CLAIMED, BOUND)]
        lines.append(_line(pair, activation, *lower, *penalised))
    return _table(head, lines)


def wgan() -> str:
    head = "| steps of the generator | 95 % interval | lower | upper |"
    lines = []
    for row in _rows("wgan"):
        low, high = row["interval"]
        cells = f"{low:.4g} to {high:.4g}", f"{row['lower']:.4g}", f"{row['upper']:.4g}"
        lines.append(_line(str(row["steps"] or row["case"]), *cells))
    return _table(head, lines)


def _rows(name: str) -> list[dict[str, Any]]:
    """Of a record; none where it has not been measured yet."""
    path = ROOT / "records" / "wasserstein" / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: str, lines: list[str]) -> str:
    if not lines:
        return "Not measured yet.\n"
    return "\n".join((head, "|" + "---|" * (head.count("|") - 1), *lines)) + "\n"


WASSERSTEIN_TABLES = {
    "known": known,
    "coverage": coverage,
    "images": images,
    "table4": table4,
    "wgan": wgan,
}
