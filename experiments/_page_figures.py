"""Figures of single pages: what a record says, and what a function looks like."""

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from experiments import drift, inverse, threats
from experiments._record import RECORDS, read
from experiments._show import COLOURS, GREY, INK, grid, panels
from experiments.compare._published import PUBLISHED
from taut import nn
from taut._zoo import manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def bars_in_groups(
    axes: "Axes", groups: Sequence[str], series: Mapping[str, Sequence[float]], form: str = "%.1f"
) -> None:
    """One group of bars for each name, one colour for each series."""
    colours = (GREY, *COLOURS) if len(series) > 2 else (GREY, COLOURS[0])
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        left = (index - (len(series) - 1) / 2) * width
        places = [i + left for i in range(len(groups))]
        bars = axes.bar(places, values, width, color=colours[index], label=name)
        axes.bar_label(bars, fmt=form, fontsize=7, color=INK)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8)


def referee() -> "Figure":
    """Constants as claimed, as proved, and as found from below."""
    rows = read(RECORDS / "referee.json")["rows"]
    figure, (axes,) = panels(1, 1, (7.6, 3.4))
    groups = [row["net"].replace(", ", ",\n") for row in rows]
    series = {
        "claimed": [row["claimed"] for row in rows],
        "proved": [row["proved"] for row in rows],
        "found (from below)": [row["found"] for row in rows],
    }
    bars_in_groups(axes, groups, series, "%.2f")
    axes.set_ylabel("Lipschitz constant")
    grid(axes, "A claim below the found constant is false")
    return figure


def attacked() -> "Figure":
    """Certified accuracy, and what each set of attacks leaves."""
    groups: list[str] = []
    series: dict[str, list[float]] = {
        "clean": [],
        "under the strongest attack": [],
        "certified": [],
    }
    for path in sorted(RECORDS.glob("attacks*.json")):
        for run in read(path)["runs"]:
            whole = [found for found in run["attacks"] if found["images"] == run["images"]]
            recipe = run["recipe"]
            groups.append(f"{recipe['name']},\n{recipe['epochs']} epochs")
            series["clean"].append(run["clean"])
            series["under the strongest attack"].append(min(a["attacked"]["1.58"] for a in whole))
            series["certified"].append(run["certified"]["1.58"])
    figure, (axes,) = panels(1, 1, (8, 3.6))
    bars_in_groups(axes, groups, series)
    axes.set_ylabel("accuracy at 1.58, %")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    grid(axes, "MNIST, all 10,000 test images: the truth lies between the last two bars")
    return figure


def arithmetics() -> "Figure":
    """Certified accuracy of one net in each arithmetic."""
    rows = read(RECORDS / "certificates.json")["accuracy"]["rows"]
    figure, axes = panels(1, 2, (8, 3.2), sharey=True)
    for place, eps in zip(axes, ("0.3", "1.58"), strict=True):
        groups = list(dict.fromkeys(row["net"] for row in rows))
        series = {
            arithmetic: [
                next(
                    row["certified"][eps]
                    for row in rows
                    if (row["net"], row["arithmetic"]) == (net, arithmetic)
                )
                for net in groups
            ]
            for arithmetic in ("real", "float64", "float32")
        }
        bars_in_groups(place, groups, series)
        grid(place, f"radius {eps}")
    if (legend := axes[0].get_legend()) is not None:
        legend.remove()
    axes[0].set_ylabel("certified accuracy, %")
    return figure


def compared() -> "Figure":
    """What the equal-compute comparison published, over the size of the net."""
    figure, (axes,) = panels(1, 1, (7, 3.8))
    for colour, (method, sizes) in zip(cycle(COLOURS), PUBLISHED.items(), strict=False):
        values = [accuracy.certified for accuracy in sizes.values()]
        axes.plot(list(sizes), values, "o-", color=colour, markersize=4, label=method)
    axes.set_xlabel("size of the net")
    axes.set_ylabel("certified accuracy at 36/255, %")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    grid(axes, "CIFAR-10, 24 hours on one A100 each (Prach et al., 2024)")
    return figure


def zoo() -> "Figure":
    """Clean and certified accuracies of the models of the zoo."""
    figure, (axes,) = panels(1, 1, (7.6, 3.8))
    looks = product("os^", COLOURS)  # another marker once all colours are taken
    for (marker, colour), (name, said) in zip(looks, manifest().items(), strict=False):
        found = sorted((_number(eps), value) for eps, value in said["certified"].items())
        points = [(0.0, said["clean"]), *found]
        axes.plot(*zip(*points, strict=True), f"{marker}-", color=colour, ms=4, label=name)
    axes.set_xlabel("l2 radius (0: clean)")
    axes.set_ylabel("certified accuracy, %")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    grid(axes, "Models of the zoo")
    return figure


def _number(radius: str) -> float:
    top, _, bottom = radius.partition("/")
    return float(top) / float(bottom or 1)


def pairs(name: str, of: str, title: str, label: str, key: str = "certified") -> "Figure":
    """One value a seed for each setting of a record, with the mean."""
    rows = read(RECORDS / f"{name}.json")["rows"]
    settings: dict[str, list[float]] = {}
    for row in rows:
        model = f"{row['model']}, " if "model" in row else ""
        settings.setdefault(f"{model}{row[of]}", []).append(_certified(row, key))
    figure, (axes,) = panels(1, 1, (6.4, 0.9 + 0.55 * len(settings)))
    for place, values in enumerate(settings.values()):
        colour = COLOURS[0] if place % 2 else GREY
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.6)
        axes.plot([fmean(values)] * 2, (place - 0.25, place + 0.25), color=colour, linewidth=2)
    axes.set_yticks(range(len(settings)), list(settings), fontsize=8)
    axes.set_ylim(-0.6, len(settings) - 0.4)
    axes.set_xlabel(label)
    grid(axes, title)
    return figure


def _certified(row: dict[str, Any], key: str) -> float:
    value = row[key]
    return float(next(iter(value.values())) if isinstance(value, dict) else value)


def initialisation() -> "Figure":
    title = "Eight layers, 400 steps: three seeds and their mean"
    return pairs("initialisation", "init", title, "certified accuracy at 36/255, %")


def optimisers() -> "Figure":
    title = "300 steps on MNIST: three seeds and their mean"
    return pairs("optimisers", "optimiser", title, "certified accuracy at 1.0, %")


def retraction() -> "Figure":
    """Certified accuracy with and without retraction."""
    figure, (axes,) = panels(1, 1, (6.4, 2))
    names = {"every-0": "never", "every-16": "every 16 steps"}
    for place, (name, label) in enumerate(names.items()):
        value = read(RECORDS / "retraction" / f"{name}.json")["summary"]["certified at 1.58"]
        colour = COLOURS[0] if place else GREY
        axes.errorbar(value["mean"], place, xerr=value["std"], fmt="o", color=colour, capsize=4)
        axes.text(value["mean"], place + 0.18, label, ha="center", fontsize=8, color=colour)
    axes.set_yticks([])
    axes.set_ylim(-0.5, 1.6)
    axes.set_xlabel("certified accuracy at 1.58, %: mean and standard deviation over seeds")
    grid(axes, "MNIST Small: parameters retracted, or not")
    return figure


def scaling() -> "Figure":
    """A step of the same batch on one process and on two."""
    rows = read(RECORDS / "scaling.json")["rows"]
    figure, (axes,) = panels(1, 1, (7, 3.2))
    series = {
        "one process": [row["one_process_ms"] for row in rows],
        "two processes, two cores": [row["two_processes_ms"] for row in rows],
        "bases": [row["bases_ms"] for row in rows],
        "exchange of gradients": [row["exchange_ms"] for row in rows],
    }
    bars_in_groups(axes, [row["case"].replace(", ", ",\n") for row in rows], series)
    axes.set_ylabel("milliseconds a step")
    grid(axes, "A step of one batch on two cores")
    return figure


def activations() -> "Figure":
    """What each activation does to a number, or to a pair of them."""
    x = torch.linspace(-2, 2, 401)
    figure, axes = panels(1, 4, (10, 2.6))
    curves = {
        "ReLU": x.relu(),
        "Abs": nn.Abs()(x[:, None])[:, 0],
        "NActivation": nn.NActivation(1)(x[:, None])[:, 0],
    }
    for colour, (name, y) in zip((GREY, *COLOURS), curves.items(), strict=False):
        axes[0].plot(x, y.detach(), color=colour, label=name)
    axes[0].legend(frameon=False, fontsize=7, loc="lower right")
    grid(axes[0], "One number")
    turn = torch.linspace(0, 2 * torch.pi, 200)
    circle = torch.stack((turn.cos(), turn.sin()), 1)
    layers = (torch.nn.ReLU(), nn.MaxMin(), nn.HouseHolder(2))
    for place, layer in zip(axes[1:], layers, strict=True):
        place.plot(*circle.T, color="#d5d0c6")
        place.plot(*layer(circle).detach().T, color=COLOURS[0])
        place.set_aspect("equal")
        place.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
        grid(place, f"Circle, {type(layer).__name__}")
    return figure


def monotone() -> "Figure":
    """Outputs of a few patients while one feature changes."""
    curves = read(RECORDS / "monotone.json")["curves"]
    kinds = ("monotone net", "unconstrained net", "boosted trees, monotone", "boosted trees")
    figure, axes = panels(1, 4, (10, 2.8), sharey=True)
    for place, kind in zip(axes, kinds, strict=True):
        for colour, y in zip((GREY, *COLOURS), curves["of"][kind], strict=False):
            place.plot(curves["x"], y, color=colour, linewidth=1.2)
        place.set_xlabel("body mass index, standardised", fontsize=8)
        grid(place, kind[0].upper() + kind[1:])
    axes[0].set_ylabel("predicted progression")
    return figure


FIGURES = {
    "drift-power": drift.power_figure,
    "referee": referee,
    "attacked": attacked,
    "arithmetics": arithmetics,
    "compared-published": compared,
    "zoo": zoo,
    "initialisation": initialisation,
    "optimisers": optimisers,
    "retraction": retraction,
    "scaling": scaling,
    "activations": activations,
    "monotone": monotone,
    "threats": threats.figure,
    "inverse": inverse.inverse,
}
