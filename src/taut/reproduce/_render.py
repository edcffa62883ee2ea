"""A comparison as text, as a page of markdown and as a figure."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, final

from taut.files import write_atomically
from taut.reproduce._line import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADS = ("system", "measure", "ours", "published", "difference")
_QUOTED, _NOTHING = "quoted only", "–"
_CAPTION = 110  # letters across a figure
_COLOURS = ("#0b6e63", "#b4470f", "#3b5fa0", "#a58a12", "#8a5a9e", "#4f8f3a")


@final
@dataclass(frozen=True)
class Page:
    """What is known of a table so far, in words.

    Args:
        name: of the table, and of its files.
        title: what it is about.
        setting: how it is done.
        lines: one a system, data set and measure.
        notes: what a reader must know to read the numbers.
        out: the folder.
        columns: measures of every system in the figure.
        axis: what the figure shows, and its unit.
        drawn: the lines of the figure; all if left out.
    """

    name: str
    title: str
    setting: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    out: Path
    columns: int
    axis: str
    drawn: tuple[Line, ...] | None = None

    @property
    def heading(self) -> str:
        """Two lines."""
        return f"{self.name}: {self.title}\n{self.setting}"

    @property
    def caption(self) -> str:
        """The heading in lines that a figure has room for."""
        return "\n".join(fill(line, _CAPTION) for line in self.heading.splitlines())


def cells(line: Line) -> tuple[str, ...]:
    """A line as text, in the order of `HEADS`.

    Example:
        >>> from taut.reproduce import Measure, Published
        >>> clean = Measure("clean", "")
        >>> cells(Line("RKO Small", "MNIST", clean, (97.0, 97.5), Published(97.28)))[2:]
        ('97.25 ± 0.35', '97.28', '−0.03')
    """
    ours = _QUOTED if line.quoted else _value(line.mean, line.std)
    value = line.published
    published = _NOTHING if value is None else _value(value.mean, value.std)
    if value is not None and not line.comparable and not line.quoted:
        published += " †"
    gap = line.difference
    difference = _NOTHING if gap is None else f"{gap:+.2f}".replace("-", "−")
    return line.system, line.measure.label, ours, published, difference


def markdown(page: Page) -> str:
    """The whole page.

    Args:
        page: of a table.

    Returns:
        Heading, tables and notes; the same text for the same numbers.
    """
    parts = [f"# {page.name}: {page.title}", page.setting]
    for dataset, lines in by_dataset(page.lines).items():
        rows = [HEADS, ("---", "---", "---:", "---:", "---:"), *map(cells, lines)]
        parts += [f"## {dataset}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join([*parts, *page.notes]) + "\n"


def write(page: Page) -> tuple[Path, Path]:
    """Writes the page and its figure beside the runs; leaves them alone where they are the same.

    Args:
        page: of a table.

    Returns:
        The two files.
    """
    text_file, figure = (page.out / f"{page.name}{suffix}" for suffix in (".md", ".png"))
    text = f"{markdown(page)}\n![{page.title}]({figure.name})\n".encode()
    if not (text_file.is_file() and figure.is_file() and text_file.read_bytes() == text):
        write_atomically(figure, draw(page))
        write_atomically(text_file, text)  # last: it tells that both are there
    return text_file, figure


def by_dataset(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Lines under the label of their data set, in their order.

    Args:
        lines: of a page.
    """
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.dataset, []).append(line)
    return groups


def draw(page: Page) -> bytes:
    """The page's numbers as a figure.

    Args:
        page: of a table.

    Returns:
        A png: a panel a data set, a line a system, ours filled and published ones hollow.
    """
    from matplotlib.figure import Figure

    groups = by_dataset(page.lines if page.drawn is None else page.drawn)
    heights = [len({line.system for line in lines}) + 1.6 for lines in groups.values()]
    size = (8.0, 0.36 * sum(heights) + 1.2)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (dataset, lines) in zip(panels, groups.items(), strict=True):
        _panel(axes, dataset, lines, page.columns)
    panels[-1].set_xlabel(f"{page.axis}; filled: ours, with standard deviation; hollow: published")
    figure.suptitle(page.caption, x=0.01, ha="left", fontsize=10)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _panel(axes: "Axes", dataset: str, lines: list[Line], columns: int) -> None:
    """One data set: a system a row, its columns a little apart."""
    systems = [line.system for line in lines[::columns]]
    for i, line in enumerate(lines):
        row, column = divmod(i, columns)
        y, colour = row + 0.13 * (column - (columns - 1) / 2), _COLOURS[column]
        if line.published is not None:
            axes.plot(
                [line.published.mean], [y], marker="D", markersize=7, color=colour, mfc="none"
            )
        if line.mean is not None:
            axes.errorbar(
                [line.mean], [y], xerr=line.std, marker="o", markersize=5, color=colour, capsize=2
            )
        if row == 0:
            label = line.measure.label
            axes.plot([], [], marker="o", linestyle="", color=colour, label=label)
    axes.set_yticks(range(len(systems)), systems)
    axes.set_ylim(len(systems) - 0.4, -0.6)
    axes.set_title(dataset, loc="left", fontsize=10, fontweight="bold")
    axes.grid(True, color="#e4e0d8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _value(mean: float | None, std: float | None) -> str:
    if mean is None:
        return _NOTHING
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
