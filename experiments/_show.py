"""Tables of markdown and figures, as pages show records."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taut.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTHING = "Not in the record yet.\n"
INK, GREY, GRID = "#3a362f", "#5f5a52", "#e4e0d8"
COLOURS = ("#0b6e63", "#b4470f", "#3b5fa0", "#a58a12", "#8a5a9e", "#4f8f3a", "#9c3a4a")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; where there is no row, the words that there is none."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    if len(lines) == 1:
        return NOTHING
    return "\n".join((lines[0], "|" + "---|" * len(header), *lines[1:])) + "\n"


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    r"""The rows of a record under the headers given, each cell by its format.

    >>> table([{"net": "Small", "radius": 0.25}], {"net": "`{net}`", "r": "{radius:.1e}"})
    '| net | r |\n|---|---|\n| `Small` | 2.5e-01 |\n'
    """
    forms = columns.values()
    return markdown(tuple(columns), ([form.format_map(row) for form in forms] for row in rows))


def spread(value: Mapping[str, Any], form: str = ".2f") -> str:
    """Mean and standard deviation, as a summary holds them."""
    deviation = "" if value["std"] is None else f" ± {value['std']:{form}}"
    return f"{value['mean']:{form}}{deviation}"


def number(value: float | None, scale: float = 1, form: str = ".2f") -> str:
    return "-" if value is None else f"{scale * value:{form}}"


def panels(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> "tuple[Figure, list[Axes]]":
    """A figure, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=150)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.set_axisbelow(True)
    return figure, axes


def grid(axes: "Axes", title: str) -> None:
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")


def png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(figure))
    print("Wrote", path)
