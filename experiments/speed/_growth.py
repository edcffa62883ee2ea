"""How times grow: cases that differ in one number, the power laws through them, and plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from experiments._show import COLOURS, GREY, grid, panels, png
from experiments.speed._cases import Case, NetCase, parse_case
from experiments.speed._rows import SpeedRow
from taut.files import write_atomically

AXES = ("channels", "kernel size", "batch", "depth")
_LEAST = 3
_LINES = (GREY, *COLOURS)
_MARKERS = "osD^vP<>"


@final
@dataclass(frozen=True)
class Sweep:
    """Times of contenders over one number of a case, the others being equal."""

    axis: str  # the number, one of `AXES`
    fixed: str  # the others, in words
    # By contender, pairs of the number and the seconds, rising.
    lines: dict[str, list[tuple[int, float]]]


def sweeps(rows: Sequence[SpeedRow]) -> list[Sweep]:
    """The longest sweep along each axis, where there are three cases or more.

    >>> rows = [SpeedRow(f"{c}x{c}x3@16b16", "plain", train=c**2.0) for c in (8, 16, 32)]
    >>> [(x.axis, x.fixed, len(x.lines["plain"])) for x in sweeps(rows)]
    [('channels', '3x3, 16x16 images, batch 16', 3)]
    """
    cases = {row.case: parse_case(row.case) for row in rows}
    longest = []
    for axis in AXES:
        groups: dict[str, dict[int, str]] = {}
        for name, case in cases.items():
            numbers = _numbers(case)
            if axis in numbers:
                others = (words for other, (_, words) in numbers.items() if other != axis)
                groups.setdefault(", ".join(others), {})[numbers[axis][0]] = name
        fixed, members = max(groups.items(), key=lambda x: len(x[1]), default=("", {}))
        if len(members) >= _LEAST:
            longest.append(Sweep(axis, fixed, _lines(rows, members)))
    return longest


def _numbers(case: Case) -> dict[str, tuple[int, str]]:
    """By axis the number of a case, and how it is said where another axis varies."""
    if isinstance(case, NetCase):
        channels, size, _ = case.input_shape
        image = (0, f"3x3, {channels} channels, {size}x{size} images, batch {case.batch}")
        return {"depth": (case.depth, ""), "": image} if case.architecture == "stack" else {}
    if not case.kernel:
        return {}
    # Channels are an axis where input and output have as many.
    channels = "channels" if case.inputs == case.outputs else "unequal channels"
    return {
        "kernel size": (case.kernel, f"{case.kernel}x{case.kernel}"),
        **({"stride": (case.stride, f"stride {case.stride}")} if case.stride > 1 else {}),
        channels: (case.inputs, f"{case.inputs} to {case.outputs} channels"),
        "image": (case.size, f"{case.size}x{case.size} images"),
        "batch": (case.batch, f"batch {case.batch}"),
    }


def exponent(points: Sequence[tuple[int, float]]) -> float | None:
    """The slope of the line through logarithms, by least squares; None with less than two.

    >>> round(exponent([(1, 3.0), (2, 12.0), (4, 48.0)]), 6)
    2.0
    """
    if len(points) < 2:
        return None
    x, y = np.log(points).T
    return float(np.polyfit(x, y, 1)[0])


def growth(rows: Sequence[SpeedRow]) -> dict[str, dict[str, float | None]]:
    """Fitted exponents by axis and contender."""
    return {
        sweep.axis: {name: exponent(points) for name, points in sweep.lines.items()}
        for sweep in sweeps(rows)
    }


def _lines(rows: Sequence[SpeedRow], cases: dict[int, str]) -> dict[str, list[tuple[int, float]]]:
    times = {(row.contender, row.case): row.train for row in rows}
    lines: dict[str, list[tuple[int, float]]] = {}
    for name in dict.fromkeys(row.contender for row in rows):
        taken = [(x, times.get((name, case))) for x, case in sorted(cases.items())]
        points = [(x, seconds) for x, seconds in taken if seconds is not None]
        if len(points) > 1:
            lines[name] = points
    return lines


def save_plots(rows: Sequence[SpeedRow], folder: Path) -> list[Path]:
    """Draws training time over each axis, as far as it was measured: a png each."""
    # By its place among all: one contender has one colour in all plots.
    places = {name: i for i, name in enumerate(dict.fromkeys(row.contender for row in rows))}
    return [_save_plot(sweep, places, folder) for sweep in sweeps(rows)]


def _save_plot(sweep: Sweep, places: dict[str, int], folder: Path) -> Path:
    from matplotlib.ticker import LogLocator

    figure, (axes,) = panels(1, 1, (8, 4.8))
    for name, points in sweep.lines.items():
        i = places[name] % len(_LINES)
        xs, ys = zip(*((x, 1e3 * seconds) for x, seconds in points), strict=True)
        label = f"{name} $\\propto n^{{{exponent(points):.1f}}}$"
        axes.plot(xs, ys, color=_LINES[i], marker=_MARKERS[i], markersize=5, label=label)
    axes.set(xscale="log", yscale="log")
    ticks = sorted({x for points in sweep.lines.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    what = "training step" if sweep.axis == "depth" else "forward and backward"
    axes.set(xlabel=f"{sweep.axis} ({sweep.fixed})", ylabel=f"{what}, ms")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    grid(axes, f"Time over {sweep.axis}")
    path = folder / f"{sweep.axis.replace(' ', '-')}.png"
    write_atomically(path, png(figure))
    return path
