"""The tables of docs/wasserstein.md, from records/wasserstein/."""

import json
from typing import Any

from benchmarks.environment import ROOT


def known() -> str:
    head = "| case | dimension | truth | lower | share | upper | interval | critic |"
    lines = []
    for row in _rows("known"):
        low, high = row["interval"]
        share = f"{100 * row['lower'] / row['truth']:.1f} %" if row["truth"] else "–"
        numbers = (f"{row[name]:.4g}" for name in ("truth", "lower"))
        interval = f"{low:.4g} to {high:.4g}"
        cells = (row["case"], str(row["dimension"]), *numbers, share, f"{row['upper']:.4g}")
        lines.append(_line(*cells, interval, row["chosen"]))
    return _table(head, lines)


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
    head = "| pair | critic | lr | lower bound | largest proved bound |"
    lines = [
        _line(
            row["case"],
            row["name"],
            f"{row['rate']:g}",
            f"{row['mean']:.3f} ± {row['std']:.3f}",
            f"{max(row['bounds']):.4f}",
        )
        for row in _rows("table4")
    ]
    return _table(head, lines)


def wgan() -> str:
    head = "| steps of the generator | interval | lower | upper |"
    lines = []
    for row in _rows("wgan"):
        low, high = row["interval"]
        cells = f"{low:.4g} to {high:.4g}", f"{row['lower']:.4g}", f"{row['upper']:.4g}"
        lines.append(_line(str(row["steps"]), *cells))
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


WASSERSTEIN_TABLES = {"known": known, "images": images, "table4": table4, "wgan": wgan}
