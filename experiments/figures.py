"""Draw the figures that pages show before their tables, from records/.

Example: python -m experiments.figures --figures docs/figures
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import _conformal_page, _page_figures, one_class, private
from experiments._record import RECORDS, ROOT, Record, read
from experiments._runner import Experiment, option
from experiments._show import COLOURS, GREY, INK, grid, panels, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONTENDERS = {
    "plain-circular": "plain, circular padding",
    "taut": "taut",
    "taut-optim": "taut, with taut.optim",
    "orthogonium": "orthogonium",
    "deel-torchlip": "deel-torchlip",
    "paper": "the paper's algorithm",
}
_GPU_CONTENDERS = {
    "plain": "plain",
    "plain-captured": "plain, captured",
    "taut": "taut",
    "taut-batched": "taut, batched",
    "taut-captured": "taut, batched and captured",
    "orthogonium": "orthogonium",
}
_TONES = {
    **dict.fromkeys(("plain", "plain-circular"), GREY),
    "plain-captured": "#a9a398",
    "taut": COLOURS[0],
    "taut-optim": COLOURS[5],
    "taut-batched": "#4a9c93",
    "taut-captured": "#8fc9c2",
    "orthogonium": COLOURS[1],
    "deel-torchlip": COLOURS[2],
    "paper": COLOURS[3],
}
_NETS = {
    "large-mnistb128": "MNIST Large",
    "large-cifar10b128": "CIFAR-10 Large",
    "stack-12x256@16b16": "12 layers of\n256 channels",
}
_GPU_NETS = {
    "large-cifar10b128": "CIFAR-10 Large,\nbatch 128",
    "large-cifar10b1024": "CIFAR-10 Large,\nbatch 1024",
    "stack-12x256@16b16": "12 layers of 256,\nbatch 16",
    "stack-12x256@16b256": "12 layers of 256,\nbatch 256",
}


def work(args: argparse.Namespace, _: Record) -> None:
    for name, drawn in FIGURES.items():
        save(drawn(), args.figures / f"{name}.png")


def nets() -> "Figure":
    """Training steps of whole nets."""
    rows = read(RECORDS / "speed.json")["rows"]
    figure, (axes,) = panels(1, 1, (7, 3.4))
    _bars(axes, [*rows["steps"], *rows["stack"]], _NETS, _CONTENDERS, "train_ratio")
    axes.set_ylabel("times the plain net")
    grid(axes, "A training step on two CPU threads, over the fastest plain net")
    return figure


def layers() -> "Figure":
    """3x3 layers of equal channels."""
    rows = read(RECORDS / "speed.json")["rows"]["equal"]
    cases = {row["case"]: f"{row['case'].split('x')[0]}\nchannels" for row in rows}
    figure, (axes,) = panels(1, 1, (7, 3.2))
    _bars(axes, rows, cases, _CONTENDERS, "train_ratio")
    axes.set_ylabel("times the plain layer")
    grid(axes, "A 3x3 layer, forward and backward, over the fastest plain one (two CPU threads)")
    return figure


def gpu() -> "Figure":
    """Training steps of nets on a GPU, in milliseconds."""
    record = read(RECORDS / "speed-cuda.json")
    measured = (*record["rows"]["steps"], *record["rows"]["stack"])
    rows = [row | {"ms": 1e3 * row["train"]} for row in measured]
    figure, (axes,) = panels(1, 1, (7, 3.6))
    _bars(axes, rows, _GPU_NETS, _GPU_CONTENDERS, "ms")
    axes.set_ylabel("milliseconds")
    grid(axes, f"A training step on an {record['environment']['gpu']}, float32")
    return figure


def _bars(
    axes: "Axes",
    rows: Sequence[dict[str, Any]],
    cases: Mapping[str, str],
    contenders: Mapping[str, str],
    key: str,
) -> None:
    """Groups of bars on a logarithmic axis: a group for each case, a colour for each contender."""
    shown = [name for name in contenders if any(row["contender"] == name for row in rows)]
    width = 0.84 / len(shown)
    for index, name in enumerate(shown):
        mine = {row["case"]: row[key] for row in rows if row["contender"] == name}
        left = (index - (len(shown) - 1) / 2) * width
        places = [i + left for i, case in enumerate(cases) if case in mine]
        values = [mine[case] for case in cases if case in mine]
        bars = axes.bar(places, values, width, color=_TONES[name], label=contenders[name])
        axes.bar_label(bars, [_short(value) for value in values], fontsize=7, color=INK)
    most = max(row[key] for row in rows if row["case"] in cases and row["contender"] in shown)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick < 1.5 * most]
    axes.set_yscale("log")
    axes.set_yticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_ylim(0.9, 3.5 * most)
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(cases)), list(cases.values()))
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 30 else f"{value:.0f}"


def methods() -> "Figure":
    """What each method reaches on MNIST, and what a step costs."""
    rows = [row for row in read(RECORDS / "on-mnist.json")["rows"] if "certified" in row]
    rows = [row for row in rows if row["certified"]["1.58"] > 50]
    figure, (axes,) = panels(1, 1, (7.4, 4.4))
    before = (0.0, 0.0)
    for row in sorted(rows, key=lambda row: row["certified"]["1.58"]):
        place = (row["CPU seconds a step"], row["certified"]["1.58"])
        is_default = row["name"] == "BCOP"
        axes.scatter(*place, s=36, color=COLOURS[0] if is_default else GREY)
        is_near = place[1] - before[1] < 0.5 and abs(place[0] - before[0]) < 0.3 * before[0]
        shift = {"xytext": (-6, -2), "ha": "right"} if is_near else {"xytext": (6, -2)}
        weight = "bold" if is_default else "normal"
        style = {"fontsize": 7.5, "fontweight": weight, "color": INK}
        axes.annotate(row["name"], place, textcoords="offset points", **shift, **style)
        before = (0.0, 0.0) if is_near else place
    axes.set_xscale("log")
    axes.set_xticks((0.2, 0.5, 1, 2, 3), ("0.2", "0.5", "1", "2", "3"))
    axes.minorticks_off()
    axes.set_xlim(0.12, 5)
    axes.set_xlabel("CPU seconds a training step")
    axes.set_ylabel("certified accuracy at 1.58, %")
    grid(axes, "Each method in the paper's Large, three epochs on MNIST")
    return figure


def costs() -> "Figure":
    """Time and memory of one layer of each method."""
    record = read(RECORDS / "methods.json")
    rows = sorted(record["cost 256"], key=lambda row: row["step over plain"])
    figure, (axes,) = panels(1, 1, (7, 5.2))
    places = range(len(rows))
    axes.barh(places, [row["step over plain"] for row in rows], color=COLOURS[0], label="time")
    memory = [row["memory over plain"] for row in rows]
    axes.plot(memory, places, "o", color=COLOURS[1], markersize=4, label="peak memory")
    axes.set_yticks(places, [row["name"] for row in rows], fontsize=7.5)
    axes.set_xscale("log")
    ticks = (0.5, 1, 2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlabel("times the fastest plain layer")
    axes.legend(frameon=False, loc="lower right")
    grid(axes, "A training step of one 3x3 layer of 256 channels")
    return figure


_FRONTS = {"front-mnist-small": "MNIST, Small", "front-fashion-mnist-large": "Fashion-MNIST, Large"}


def offsets() -> "Figure":
    """Certified accuracy over the radius for each offset that was tried."""
    figure, axes = panels(1, len(_FRONTS), (8.4, 3.6), sharey=True)
    for place, (name, title) in zip(axes, _FRONTS.items(), strict=True):
        points = [p for p in read(RECORDS / f"{name}.json")["points"] if p["temperature"] == 0.35]
        for colour, point in zip(COLOURS, points, strict=False):
            radii, values = accuracies(point)
            label = f"offset {point['offset']:g}"
            place.plot(radii, values, "o-", color=colour, markersize=3.5, label=label)
        place.set_xlabel("l2 radius (0: clean)")
        place.legend(frameon=False)
        grid(place, title)
    axes[0].set_ylabel("certified accuracy, %")
    return figure


def accuracies(point: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Radii, beginning with 0 for clean, and the accuracy at each."""
    found = [(0.0, point["summary"]["clean"]["mean"])]
    for key, value in point["summary"].items():
        if key.startswith("certified at "):
            found.append((float(key.removeprefix("certified at ")), value["mean"]))
    return [radius for radius, _ in found], [value for _, value in found]


FIGURES = {
    "speed-nets": nets,
    "speed-layers": layers,
    "speed-gpu": gpu,
    "methods-mnist": methods,
    "methods-cost": costs,
    "choosing-eps": offsets,
    "conformal": _conformal_page.figure,
    "one-class": one_class.one_class,
    "private": private.figure,
    **_page_figures.FIGURES,
}
EXPERIMENT = Experiment(
    "figures",
    __doc__,
    work,
    (option("--figures", ROOT / "docs/figures", "the folder to draw into", type=Path),),
    threads=1,
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
