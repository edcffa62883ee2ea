"""A comparison with published values as text, as a page of markdown and as a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from textwrap import fill
from typing import TYPE_CHECKING, final

from experiments._show import COLOURS, grid, panels, png
from experiments.reproduce._published import Measure, PublishedValue
from taut.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADS = ("system", "measure", "ours", "published", "difference")
_QUOTED, _NOTHING = "quoted only", "–"
_CAPTION = 110  # letters across a figure


@final
@dataclass(frozen=True)
class Quantity:
    """A measure that is no accuracy."""

    label: str


@final
@dataclass(frozen=True)
class Line:
    """One measure of one system on one data set."""

    system: str  # what the table calls it
    dataset: str  # its label
    measure: Measure | Quantity  # what it is of
    ours: tuple[float, ...]  # one value a finished run or training; accuracies are in percent
    published: PublishedValue | None  # None where there is none
    quoted: bool = False  # whether the system is only quoted, from other authors
    comparable: bool = True  # whether the published value is of the same data

    @property
    def mean(self) -> float | None:
        """Over our runs; None if there is none."""
        return mean(self.ours) if self.ours else None

    @property
    def std(self) -> float | None:
        """Of our runs; None for fewer than two."""
        return stdev(self.ours) if len(self.ours) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours less the published mean; None where they do not compare."""
        if self.mean is None or self.published is None or not self.comparable:
            return None
        return self.mean - self.published.mean


@final
@dataclass(frozen=True)
class ComparisonPage:
    """What is known of a table so far, in words."""

    name: str  # of the table, and of its files
    title: str  # what it is about
    setting: str  # how it is done
    lines: tuple[Line, ...]  # one a system, data set and measure
    notes: tuple[str, ...]  # what a reader must know to read the numbers
    out: Path  # the folder
    columns: int  # measures of every system in the figure
    axis: str  # what the figure shows, and its unit
    drawn: tuple[Line, ...] | None = None  # the lines of the figure; all if left out

    @property
    def heading(self) -> str:
        return f"{self.name}: {self.title}\n{self.setting}"

    @property
    def caption(self) -> str:
        """The heading in lines that a figure has room for."""
        return "\n".join(fill(line, _CAPTION) for line in self.heading.splitlines())


def cells(line: Line) -> tuple[str, ...]:
    """A line as text, in the order of `HEADS`."""
    ours = _QUOTED if line.quoted else _value(line.mean, line.std)
    value = line.published
    published = _NOTHING if value is None else _value(value.mean, value.std)
    if value is not None and not line.comparable and not line.quoted:
        published += " †"
    gap = line.difference
    difference = _NOTHING if gap is None else f"{gap:+.2f}".replace("-", "−")
    return line.system, line.measure.label, ours, published, difference


def _value(mean: float | None, std: float | None) -> str:
    if mean is None:
        return _NOTHING
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def markdown(page: ComparisonPage) -> str:
    """Heading, tables and notes; the same text for the same numbers."""
    parts = [f"# {page.name}: {page.title}", page.setting]
    for dataset, lines in by_dataset(page.lines).items():
        rows = [HEADS, ("---", "---", "---:", "---:", "---:"), *map(cells, lines)]
        parts += [f"## {dataset}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join([*parts, *page.notes]) + "\n"


def write(page: ComparisonPage) -> tuple[Path, Path]:
    """Writes the page and its figure beside the runs; leaves them alone where they are the same."""
    text_file, figure = (page.out / f"{page.name}{suffix}" for suffix in (".md", ".png"))
    text = f"{markdown(page)}\n![{page.title}]({figure.name})\n".encode()
    if not (text_file.is_file() and figure.is_file() and text_file.read_bytes() == text):
        write_atomically(figure, draw(page))
        write_atomically(text_file, text)  # last: it tells that both are there
    return text_file, figure


def by_dataset(lines: Sequence[Line]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.dataset, []).append(line)
    return groups


def draw(page: ComparisonPage) -> bytes:
    """A png: a panel a data set, a line a system, ours filled and published ones hollow."""
    groups = by_dataset(page.lines if page.drawn is None else page.drawn)
    heights = [len({line.system for line in lines}) + 1.6 for lines in groups.values()]
    size = (8.0, 0.36 * sum(heights) + 1.2)
    figure, every = panels(len(groups), 1, size, height_ratios=heights)
    for axes, (dataset, lines) in zip(every, groups.items(), strict=True):
        _draw_panel(axes, lines, page.columns)
        grid(axes, dataset)
    every[-1].set_xlabel(f"{page.axis}; filled: ours, with standard deviation; hollow: published")
    figure.suptitle(page.caption, x=0.01, ha="left", fontsize=10)
    return png(figure)


def _draw_panel(axes: "Axes", lines: list[Line], columns: int) -> None:
    """One data set: a system a row, its columns a little apart."""
    systems = [line.system for line in lines[::columns]]
    for i, line in enumerate(lines):
        row, column = divmod(i, columns)
        y, colour = row + 0.13 * (column - (columns - 1) / 2), COLOURS[column]
        if line.published is not None:
            hollow = {"marker": "D", "markersize": 7, "mfc": "none"}
            axes.plot([line.published.mean], [y], color=colour, **hollow)
        if line.mean is not None:
            filled = {"marker": "o", "markersize": 5, "capsize": 2}
            axes.errorbar([line.mean], [y], xerr=line.std, color=colour, **filled)
        if row == 0:
            label = line.measure.label
            axes.plot([], [], marker="o", linestyle="", color=colour, label=label)
    axes.set_yticks(range(len(systems)), systems)
    axes.set_ylim(len(systems) - 0.4, -0.6)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
