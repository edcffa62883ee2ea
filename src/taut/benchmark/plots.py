"""Plots of how times grow."""

from collections.abc import Sequence
from pathlib import Path

from taut.benchmark.rows import Row
from taut.benchmark.trends import Sweep, exponent, sweeps

_COLOURS = ("#5f5a52", "#0b6e63", "#b4470f", "#3b5fa0", "#8a5a9e", "#a58a12", "#4f8f3a", "#9c3a4a")
_MARKERS = "osD^vP<>"


def save_plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws training time over channels, kernel size, batch and depth, as far as it was measured.

    Args:
        rows: of any cases.
        folder: gets one png for each axis.

    Returns:
        The files.

    Example:
        >>> save_plots([], Path("."))
        []
    """
    names = list(dict.fromkeys(row.contender for row in rows))
    return [_save(sweep, names, folder) for sweep in sweeps(rows)]


def _save(sweep: Sweep, names: Sequence[str], folder: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained", dpi=150)
    axes = figure.subplots()
    ends = []
    for name, points in sweep.lines.items():
        # By its place among all: one contender has one colour in all plots.
        i = names.index(name) % len(_COLOURS)
        xs, ys = zip(*((x, 1e3 * seconds) for x, seconds in points), strict=True)
        axes.plot(xs, ys, color=_COLOURS[i], marker=_MARKERS[i], markersize=5, linewidth=1.8)
        ends.append((ys[-1], xs[-1], f"{name}  $\\propto n^{{{exponent(points):.1f}}}$", i))
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({x for points in sweep.lines.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _label(axes, ends)
    axes.grid(True, color="#e4e0d8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"{sweep.axis} ({sweep.fixed})")
    what = "training step" if sweep.axis == "depth" else "forward and backward"
    axes.set_ylabel(f"{what}, ms")
    axes.set_title(f"Time over {sweep.axis}", loc="left", fontsize=12, fontweight="bold")
    path = folder / f"{sweep.axis.replace(' ', '-')}.png"
    figure.savefig(path)
    return path


def _label(axes, ends: list[tuple[float, int, str, int]]) -> None:
    """Names each line at its end, moved up where two would overlap."""
    figure = axes.figure
    figure.canvas.draw()
    place, height = None, 13 * figure.dpi / 72
    for y, x, text, i in sorted(ends):
        _, up = axes.transData.transform((x, y))
        place = up if place is None else max(up, place + height)
        axes.annotate(
            text,
            (x, y),
            xytext=(8, (place - up) * 72 / figure.dpi),
            textcoords="offset points",
            color=_COLOURS[i],
            fontsize=9,
            va="center",
            annotation_clip=False,
        )
