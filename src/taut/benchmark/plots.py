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
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 4.8), layout="constrained", dpi=150)
    axes = figure.subplots()
    ends = []
    for name, points in sweep.lines.items():
        # By its place among all: one contender has one colour in all plots.
        i = names.index(name) % len(_COLOURS)
        xs, ys = zip(*((x, 1e3 * seconds) for x, seconds in points), strict=True)
        axes.plot(xs, ys, color=_COLOURS[i], marker=_MARKERS[i], markersize=5, linewidth=1.8)
        ends.append((ys[-1], xs[-1], f"{name} $\\propto n^{{{exponent(points):.1f}}}$", i))
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({x for points in sweep.lines.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
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
    """Names each line at its end, apart where two would overlap."""
    figure = axes.figure
    figure.canvas.draw()
    points = 72 / figure.dpi
    ends = sorted(ends)
    heights = [points * axes.transData.transform((x, y))[1] for y, x, _, _ in ends]
    for (y, x, text, i), height, place in zip(ends, heights, apart(heights, 13.0), strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(8, place - height),
            textcoords="offset points",
            color=_COLOURS[i],
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def apart(places: Sequence[float], least: float) -> list[float]:
    """The nearest places (least squares) that keep the order and a least distance.

    Args:
        places: rising.
        least: the distance.

    Example:
        >>> apart([0.0, 10.0, 10.0], 4.0)
        [0.0, 8.0, 12.0]
    """
    # Less their distances they only have to rise: pool what does not (isotonic regression).
    pools: list[tuple[float, int]] = []
    for i, place in enumerate(places):
        mean, count = place - i * least, 1
        while pools and pools[-1][0] > mean:
            before, others = pools.pop()
            mean = (mean * count + before * others) / (count + others)
            count += others
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean + i * least for i, mean in enumerate(flat)]
