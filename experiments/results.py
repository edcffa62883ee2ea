"""Draw our results beside the published ones.

Example: python -m experiments.results --figures docs/figures

What others published is in published.csv: percent, radii in l2 for pixels in [0, 1]. Ours is in
records/ and zoo/. `experiments.tables` writes the same as tables.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._record import RECORDS, ROOT, Record, read
from experiments._runner import Experiment, option
from experiments._show import COLOURS, GREY, GRID, grid, markdown, panels, save, spread
from taut._zoo import manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# By data set: the radius that nets are compared at, and all that have a column.
RADII = {
    "mnist": ("1.58", ("0.3", "0.5", "1.0", "1.58", "2.0")),
    "fashion-mnist": ("1.0", ("0.3", "0.5", "1.0", "1.58", "2.0")),
    "cifar10": ("36/255", ("36/255", "72/255", "108/255", "1.0")),
    "cifar100": ("36/255", ("36/255", "72/255", "108/255", "1.0")),
    "tiny-imagenet": ("36/255", ("36/255", "72/255", "108/255")),
}
# Ours by the published data set they stand beside.
_LABELS = {
    "MNIST": "mnist",
    "Fashion-MNIST": "fashion-mnist",
    "CIFAR-10": "cifar10",
    "CIFAR-10 (JPEG q75)": "cifar10",
}
_PUBLISHED = Path(__file__).with_name("published.csv")


class Net(NamedTuple):
    """A line of the table; accuracies as text, certified ones by radius."""

    name: str
    data: str
    clean: str
    certified: dict[str, str]
    facts: str  # of its size and training, and the arithmetic of what is certified
    source: str

    def at(self, radius: str) -> float:
        """The certified accuracy at a radius; -1 if it is not known."""
        return float(self.certified.get(radius, "-1").split(" ")[0])

    @property
    def is_ours(self) -> bool:
        """Whether the source is a link: to a record, or the zoo."""
        return "](" in self.source


def published(dataset: str) -> Iterator[Net]:
    """The rows of published.csv."""
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["data"] == dataset:
                certified = {radius: row[radius] for radius in RADII[dataset][1] if row.get(radius)}
                extra = f", with {row['extra data']} images" if row["extra data"] else ""
                name = f"{row['net']} ({row['year']}){extra}"
                size = f"{row['parameters']} parameters; " if row["parameters"] else ""
                yield Net(name, "", row["clean"], certified, f"{size}real", row["source"])


def ours(dataset: str) -> Iterator[Net]:
    """Recipes, the best settings of each front at each radius, and the zoo."""
    for path in sorted(RECORDS.glob("*.json")):
        content = read(path)
        if "recipe" in content:
            yield from _of(dataset, path, content["recipe"]["name"], content)
        elif path.stem.startswith("front-"):
            for point in _best(content["points"]):
                name = f"{content['architecture']}, offset {point['offset']:g}"
                yield from _of(dataset, path, name, point)
    for name, said in manifest().items():
        if _LABELS.get(said["data"]) == dataset:
            certified = {_radius(eps): f"{value:.2f}" for eps, value in said["certified"].items()}
            yield Net(
                f"`zoo:{name}`",
                said["data"],
                f"{said['clean']:.2f}",
                certified,
                f"{said['epochs']} epochs, 1 seed; float64",
                "[zoo](zoo.md)",
            )


def _of(dataset: str, path: Path, name: str, measured: dict[str, Any]) -> Iterator[Net]:
    """What a summary over seeds says, if it is of this data set."""
    first, values = measured["runs"][0], measured["summary"]
    if _LABELS.get(first["data"]) != dataset:
        return
    plan = measured.get("recipe", measured)
    certified = {
        _radius(key.removeprefix("certified at ")): spread(value)
        for key, value in values.items()
        if key.startswith("certified at ")
    }
    minutes = values["training seconds"]["mean"] / 60
    seeds = len(measured["runs"])
    arithmetic = first.get("arithmetic", "real")
    facts = (
        f"{plan['epochs']} epochs, {minutes:.0f} min, {seeds} seed{'s' * (seeds > 1)}; {arithmetic}"
    )
    source = f"[{path.stem}](../records/{path.name})"
    yield Net(name, first["data"], spread(values["clean"]), certified, facts, source)


def _radius(text: str) -> str:
    """A radius as columns are called."""
    return f"{text}.0" if text.isdigit() else text


def _best(points: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a front with the largest certified accuracy at some radius."""
    points = list(points)
    known = set.intersection(*(set(point["summary"]) for point in points))
    keys = [key for key in known if key.startswith("certified at ")]
    best = [max(points, key=lambda point: point["summary"][key]["mean"]) for key in keys]
    return [point for point in points if point in best]


def results_table(dataset: str) -> str:
    """All nets of a data set, the largest certified accuracy first."""
    headline, radii = RADII[dataset]
    nets = sorted((*published(dataset), *ours(dataset)), key=lambda net: -net.at(headline))
    known = [radius for radius in radii if any(radius in net.certified for net in nets)]
    header = ("net", "clean", *(f"at {radius}" for radius in known), "details", "source")
    rows = []
    for net in nets:
        name = f"**{net.name}**" if net.is_ours else net.name
        accuracies = (net.clean, *(net.certified.get(radius, "") for radius in known))
        rows.append((name, *accuracies, net.facts, net.source))
    return markdown(header, rows)


def best() -> str:
    """Ours with the largest certified accuracy, for each data set."""
    rows = []
    for dataset, (headline, radii) in RADII.items():
        for net in sorted(ours(dataset), key=lambda net: -net.at(headline))[:1]:
            proved = ", ".join(f"{net.certified[r]} at {r}" for r in radii if r in net.certified)
            source = net.source.replace("../", "").replace("zoo.md", "docs/zoo.md")
            rows.append((net.data, net.name, net.clean, proved, net.facts, source))
    return markdown(("data", "net", "clean", "certified", "details", "record"), rows)


def work(args: argparse.Namespace, _: Record) -> None:
    for dataset, title in _DRAWN.items():
        figure, (axes,) = panels(1, 1, (6.4, 4.6))
        draw = _panel if any(ours(dataset)) else _published_panel
        draw(axes, dataset, title)
        save(figure, args.figures / f"results-{dataset}.png")


def _panel(axes: "Axes", dataset: str, title: str) -> None:
    """Certified against clean accuracy."""
    headline = RADII[dataset][0]
    _draw_nets(axes, published(dataset), headline, "published", color=GREY, marker="o")
    _draw_nets(axes, ours(dataset), headline, "ours", color=COLOURS[0], marker="D")
    beside_title = {"loc": "lower right", "bbox_to_anchor": (1, 0.99), "ncols": 2}
    axes.legend(frameon=False, fontsize=8, **beside_title)
    axes.set_xlabel("clean accuracy, %")
    axes.set_ylabel(f"certified accuracy at {headline}, %")
    grid(axes, title)


def _draw_nets(
    axes: "Axes", nets: Iterable[Net], headline: str, label: str, *, color: str, marker: str
) -> None:
    """A point for each; those that no other one beats in both accuracies have a name."""
    known = [net for net in nets if net.clean and headline in net.certified]
    points = [(float(net.clean.split(" ")[0]), net.at(headline)) for net in known]
    for net, (clean, proved) in zip(known, points, strict=True):
        first = all(clean >= x or proved >= y for x, y in points)
        alpha = 1 if first else 0.35
        axes.scatter(clean, proved, s=34, color=color, marker=marker, alpha=alpha, zorder=3)
        if first:
            place = {"xytext": (-6, 4), "textcoords": "offset points", "ha": "right"}
            looks = {"fontsize": 8, "color": color, "zorder": 4}
            axes.annotate(net.name.strip("`"), (clean, proved), **place, **looks)
    if points:
        axes.scatter([], [], color=color, marker=marker, label=label)


def _published_panel(axes: "Axes", dataset: str, title: str) -> None:
    """A bar for each net: certified, and clean behind it."""
    headline = RADII[dataset][0]
    nets = sorted((net for net in published(dataset) if net.clean), key=lambda n: n.at(headline))
    names = [net.name for net in nets]
    axes.barh(names, [float(net.clean) for net in nets], color=GRID, label="clean")
    bars = axes.barh(names, [net.at(headline) for net in nets], color=GREY, label="certified")
    axes.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize=7)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_xlabel(f"accuracy, %; certified at {headline}")
    axes.legend(frameon=False, loc="lower right")
    grid(axes, title)


_DRAWN = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10; ours on its JPEG q75",
    "cifar100": "CIFAR-100: published",
    "tiny-imagenet": "Tiny-ImageNet: published",
}
TABLES = {f"results-{dataset}": partial(results_table, dataset) for dataset in RADII}

EXPERIMENT = Experiment(
    "results",
    __doc__,
    work,
    (option("--figures", ROOT / "docs/figures", "the folder to draw into", type=Path),),
    threads=1,
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
