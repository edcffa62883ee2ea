"""The comparison as tables and as a figure, of records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._record import FIGURES, RECORDS, read
from experiments._show import COLOURS, GREY, NOTHING, grid, markdown, panels, png
from experiments.compare._budget import EPS
from experiments.compare._published import NAMES, PUBLISHED, SOURCE
from taut.files import write_atomically
from taut.models import layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE = "#c9c3b8"
_Point = tuple[str, float, float]  # name, clean, certified at the first eps


def section(record: Mapping[str, Any], figure: str) -> str:
    """How it was measured, the figure and the tables."""
    return f"{about(record)}\n\n![{_title(record)}]({figure})\n\n{tables(record)}"


def about(record: Mapping[str, Any]) -> str:
    """The settings and the machine in words."""
    settings, machine = record["settings"], record["environment"]
    threads = machine["threads"]
    processor = f"{machine['processor']}, {threads} thread{'s' * (threads > 1)}"
    place = processor if settings["device"] == "cpu" else machine["gpu"]
    return (
        f"Size {settings['size']} on {settings['data']}, for each method "
        f"{settings['minutes']:g} minutes of {settings['budget']}; {place}; torch "
        f"{machine['torch']}; seed {settings['seed']}; commit {machine['commit'][:12]}. Loss: "
        f"{settings['loss']}:"
    )


def _published_size(record: Mapping[str, Any]) -> str:
    size = record["settings"]["size"]
    return size if size in PUBLISHED["BCOP"] else "XS"


def tables(record: Mapping[str, Any]) -> str:
    """Accuracies and costs, the best method first; then the methods that failed, and why."""
    published = _published_size(record)
    accuracies = ("method", "clean", *EPS, "bound", f"published at {published}: clean, 36/255")
    costs = (
        *("method", "rate", "steps", "epochs", "seconds a step", "wall minutes", "memory, MiB"),
        "parameters, k",
    )
    rows = trained(record)
    proven = [(*_accuracies(row), _published(row["name"], published)) for row in rows]
    failed = [row for row in record.get("rows", ()) if "note" in row]
    parts = [
        "Clean accuracy, and certified accuracy at each radius, in percent:\n",
        markdown(accuracies, proven),
        f"Costs:\n\n{markdown(costs, map(_costs, rows))}",
    ]
    if failed:
        parts.append("".join(f"- {row['name']} failed: {row['note']}\n" for row in failed))
    return "\n".join(parts)


def trained(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of methods that did not fail, the best first; of equals in the order of the methods."""
    order = {name: place for place, name in enumerate(layers())}
    rows = [row for row in record.get("rows", ()) if "note" not in row]
    rows.sort(key=lambda row: order.get(row["name"], len(order)))
    return sorted(rows, key=_rank, reverse=True)


def _rank(row: Mapping[str, Any]) -> tuple[bool, float, float]:
    """By certified accuracy; last, nets with one class for all images, which no change moves."""
    certified, clean = row["certified"][EPS[0]], row["clean"]
    return certified < clean, certified, clean


def _accuracies(row: Mapping[str, Any]) -> tuple[str, ...]:
    shares = (row["clean"], *(row["certified"][eps] for eps in EPS))
    return row["name"], *(f"{value:.2f}" for value in shares), f"{row['bound']:.4g}"


def _costs(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        f"{row['lr']:g}",
        str(row["steps"]),
        f"{row['epochs']:.1f}",
        f"{row['seconds a step']:.3g}",
        f"{row['wall seconds'] / 60:.1f}",
        f"{row['memory'] / 2**20:.0f}",
        f"{row['parameters'] / 1e3:.0f}",
    )


def _published(name: str, size: str) -> str:
    """Clean and certified, where the paper has the layer."""
    value = PUBLISHED[NAMES[name]].get(size) if name in NAMES else None
    return "" if value is None else f"{value.clean}, {value.certified}"


def published_table() -> str:
    """Certified and clean accuracy at every size."""
    sizes = tuple(PUBLISHED["BCOP"])
    rows = []
    for method, values in PUBLISHED.items():
        pairs = (values.get(size) for size in sizes)
        rows.append((method, *("–" if v is None else f"{v.clean}, {v.certified}" for v in pairs)))
    return f"{markdown(('method', *sizes), rows)}\n{SOURCE}.\n"


def recorded() -> str:
    """A section for each record, in docs/compare.md."""
    paths = sorted(RECORDS.glob("compare-*.json"))
    parts = (section(read(path), f"figures/{figure_of(path).name}") for path in paths)
    return "\n".join(parts) or NOTHING


def figure_of(record: Path) -> Path:
    """Where the figure of a record is saved."""
    return FIGURES / f"{record.stem}.png"


def write_page(folder: Path, record: Mapping[str, Any]) -> Path:
    """The page of a folder: the section and the published table, and the figure beside them."""
    page, figure = folder / "compare.md", folder / "compare.png"
    write_atomically(figure, draw(record))
    title = f"# {_title(record)}\n\n"
    text = f"{title}{section(record, figure.name)}\nPublished:\n\n{published_table()}"
    write_atomically(page, text.encode())
    return page


def _title(record: Mapping[str, Any]) -> str:
    return f"Every method for the same time, size {record['settings']['size']}"


def draw(record: Mapping[str, Any]) -> bytes:
    """A png: clean against certified accuracy, ours and the published nets apart."""
    settings, size = record["settings"], _published_size(record)
    ours = [(row["name"], row["clean"], row["certified"][EPS[0]]) for row in trained(record)]
    values = {name: sizes[size] for name, sizes in PUBLISHED.items() if size in sizes}
    theirs = [(name, value.clean, value.certified) for name, value in values.items()]
    figure, (above, below) = panels(2, 1, (8, 9.6), height_ratios=(3, 2))
    title = f"{settings['data']}, {settings['size']}, {settings['minutes']:g} minutes a method"
    _draw_points(above, ours, COLOURS[0], title)
    _draw_points(below, theirs, GREY, f"published: CIFAR-10, {size}, 24 hours on an A100")
    return png(figure)


def _draw_points(axes: "Axes", points: Sequence[_Point], colour: str, title: str) -> None:
    """Those that learned; the others by name below."""
    best = max((clean for _, clean, _ in points), default=0.0)
    shown = [point for point in points if point[1] > best / 2]
    apart = [name for name, clean, _ in points if clean <= best / 2]
    axes.scatter([x for _, x, _ in shown], [y for *_, y in shown], s=26, color=colour, zorder=3)
    _label(axes, shown)
    grid(axes, title)
    beyond = f"\nless than half the best clean accuracy: {'; '.join(apart)}" if apart else ""
    axes.set_xlabel(f"clean accuracy, %{beyond}", wrap=True)
    axes.set_ylabel(f"certified accuracy at {EPS[0]} in l2, %")
    axes.margins(0.08)


def _label(axes: "Axes", points: Sequence[_Point]) -> None:
    """Names beside the axes, in the order of the points from top to bottom, a line to each."""
    ordered = sorted(points, key=lambda point: point[2], reverse=True)
    for place, (name, clean, certified) in enumerate(ordered):
        axes.annotate(
            name,
            (clean, certified),
            (1.05, 1 - (place + 0.5) / len(ordered)),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": _LINE, "relpos": (0, 0.5), "shrinkB": 3},
        )


TABLES = {"compared": recorded, "compared-published": published_table}
