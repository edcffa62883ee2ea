"""A comparison as a page of markdown and as a figure."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from taut.files import write_atomically
from taut.reproduce._comparison import Comparison, Line
from taut.reproduce._plan import Plan
from taut.reproduce._protocol import DATASETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADS = ("system", "measure", "ours", "published", "difference")
_QUOTED, _NOTHING = "quoted only", "–"
_COLOURS = ("#0b6e63", "#b4470f", "#3b5fa0", "#a58a12", "#8a5a9e", "#4f8f3a")


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


def heading(plan: Plan) -> str:
    """What a table is about, and by which setting it is done.

    Example:
        >>> from taut.reproduce import SETTINGS, TABLES, make_plan
        >>> from pathlib import Path
        >>> plan = make_plan(TABLES["table8"], SETTINGS["paper"], Path("out"), only=["mnist"])
        >>> print(heading(plan))
        table8: Clean and certified accuracy at the smaller radius
        paper: the paper's protocol, for a GPU; 200 epochs; seeds 0, 1, 2, 3, 4
    """
    epochs = dict.fromkeys(
        f"{trial.recipe.epochs} epochs ({trial.recipe.model.architecture})" for trial in plan.trials
    )
    counts = {trial.recipe.epochs for trial in plan.trials}
    spoken = ", ".join(epochs) if len(counts) > 1 else _count(counts.pop(), "epoch")
    seeds = ", ".join(map(str, plan.setting.seeds))
    setting = f"{plan.setting.name}: {plan.setting.summary}; {spoken}; seeds {seeds}"
    return f"{plan.table.name}: {plan.table.title}\n{setting}"


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the numbers."""
    lines, plan = comparison.lines, comparison.plan
    found = [
        "Percent of the test set. Ours: mean ± standard deviation over seeds; certified for the "
        "float64 program.",
    ]
    published = dict.fromkeys(p.row.source for p in plan.rows if p.row.published)
    if published:
        found.append(
            f"Published: {'; '.join(published)}; its nets: 200 epochs, 5 seeds. Difference: "
            "ours less the published mean."
        )
    for dataset in dict.fromkeys(p.dataset for p in plan.rows if not p.row.published):
        protocol = DATASETS[DATASETS[dataset].stands_for or dataset]
        found.append(
            f"{DATASETS[dataset].label}: an extension, by the protocol of {protocol.label}."
        )
    if published and _fewer_images(plan):
        found.append(
            "Where it says first so many, ours is of those test images; the published value of all."
        )
    if any(line.quoted for line in lines):
        found.append("Quoted only: systems of other authors, which taut does not do again.")
    if any(not line.comparable for line in lines):
        found.append("† Published for CIFAR-10 itself, another data set: no difference is given.")
    if comparison.runs < len(plan.trials):
        found.append(f"So far {comparison.runs} of {_count(len(plan.trials), 'run')}.")
    return found


def markdown(comparison: Comparison) -> str:
    """The whole page.

    Args:
        comparison: of a plan.

    Returns:
        Heading, table and notes; the same text for the same numbers.
    """
    title, setting = heading(comparison.plan).split("\n")
    parts = [f"# {title}", setting]
    for dataset, lines in by_dataset(comparison).items():
        rows = [HEADS, ("---", "---", "---:", "---:", "---:"), *map(cells, lines)]
        parts += [f"## {dataset}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join([*parts, *notes(comparison)]) + "\n"


def write(comparison: Comparison) -> tuple[Path, Path]:
    """Writes the page and its figure beside the runs; leaves them alone where they are the same.

    Args:
        comparison: of a plan.

    Returns:
        The two files.
    """
    plan = comparison.plan
    page, figure = (plan.out / f"{plan.table.name}{suffix}" for suffix in (".md", ".png"))
    text = markdown(comparison).encode()
    if not (page.is_file() and figure.is_file() and page.read_bytes() == text):
        write_atomically(figure, draw(comparison))
        write_atomically(page, text)  # last: it tells that both are there
    return page, figure


def by_dataset(comparison: Comparison) -> dict[str, list[Line]]:
    """The lines under the label of their data set, in the order of the table.

    Args:
        comparison: of a plan.
    """
    groups: dict[str, list[Line]] = {}
    for line in comparison.lines:
        groups.setdefault(line.dataset, []).append(line)
    return groups


def draw(comparison: Comparison) -> bytes:
    """The page's numbers as a figure.

    Args:
        comparison: of a plan.

    Returns:
        A png: a panel a data set, a line a system, ours filled and published ones hollow.
    """
    from matplotlib.figure import Figure

    groups = by_dataset(comparison)
    heights = [len({line.system for line in lines}) + 1.6 for lines in groups.values()]
    size = (8.0, 0.36 * sum(heights) + 1.2)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (dataset, lines) in zip(panels, groups.items(), strict=True):
        _panel(axes, dataset, lines, len(comparison.plan.table.columns))
    panels[-1].set_xlabel("accuracy, %; filled: ours, with standard deviation; hollow: published")
    figure.suptitle(heading(comparison.plan), x=0.01, ha="left", fontsize=10)
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


def _fewer_images(plan: Plan) -> bool:
    columns = plan.table.columns
    pairs = [pair for p in plan.rows for pair in zip(p.measures, columns, strict=True)]
    return any(measure.images != column.first for measure, column in pairs)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
