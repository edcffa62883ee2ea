"""The figure that compares models: gradient norm by depth, spectrum of the Jacobian."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from taut.diagnostics import GradientProfile
from taut.plot._style import COLOURS, clipped, mark_one, needs_log, plot_style, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASH = 4.0
_LETTER = 0.1  # inches of the widest bold letter of a name


_Named: TypeAlias = Mapping[str, GradientProfile]


def profiles(columns: Mapping[str, Mapping[str, GradientProfile]]) -> "Figure":
    """Plot models side by side: gradient norm by depth above, spectrum of the Jacobian below.

    A model has one colour in all columns, by its name; columns share their scales. Values below
    1e-20 are drawn as 1e-20 on a logarithmic scale.

    Args:
        columns: for each column, by its title, the models by name.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if there is no model.
        ImportError: if matplotlib is not installed.

    Example:
        >>> from taut.diagnostics import GradientProfile
        >>> len(profiles({"": {"mine": GradientProfile([0.5, 1.0])}}).axes)
        1
    """
    drawn = [profile for named in columns.values() for profile in named.values()]
    if not drawn:
        raise ValueError("`columns` must hold a model; got none.")
    names = list(dict.fromkeys(name for named in columns.values() for name in named))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    norms = [x for profile in drawn for x in profile.gradient]
    values = [x for profile in drawn for x in profile.jacobian]
    log = needs_log([*norms, *values])
    with plot_style():
        from matplotlib.figure import Figure

        heights = (3.3, 0.27 * len(names) + 0.75) if values else (3.3,)
        figure = Figure(figsize=(_width(len(columns), names), sum(heights)), layout="constrained")
        shared = {"sharex": "row", "sharey": "row", "squeeze": False}
        grid = figure.subplots(len(heights), len(columns), height_ratios=heights, **shared)
        for i, (title, named) in enumerate(columns.items()):
            grid[0, i].set_title(title)
            _draw_gradients(grid[0, i], named, colours, log)
            if values:
                _draw_jacobians(grid[1, i], named, colours, log)
        scale = "log" if log else "linear"
        grid[0, 0].set_ylabel("gradient norm,\nrelative to the output's")
        grid[0, 0].set(yscale=scale, ylim=_limits(norms, log))
        if values:
            grid[1, 0].set(xscale=scale, xlim=_limits(values, log), ylim=(len(names) - 0.4, -0.6))
            grid[1, 0].set_yticks(range(len(names)), names, weight="bold")
            for label, colour in zip(grid[1, 0].get_yticklabels(), colours.values(), strict=True):
                label.set_color(colour)
        figure.draw_without_rendering()
        _label_curves(grid[0, -1], list(columns.values())[-1], colours, log)
        figure.draw_without_rendering()
    return figure


def _width(columns: int, names: Sequence[str]) -> float:
    """Inches that leave each column its room, with names on both sides."""
    beyond = max(0, max(map(len, names)) - 10)
    return 3.3 * columns + (2.8 if columns == 1 else 1.6) + 2 * _LETTER * beyond


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Limits of an axis that shows all values, and 1."""
    drawn = [1.0, *(x for x in clipped(values, log=log) if math.isfinite(x))]
    least, most = min(drawn), max(drawn)
    room = (most / least) ** 0.08 if log else 1.1
    return (least / room if log else 0.0), most * room


def _draw_gradients(axes: "Axes", named: _Named, colours: Mapping[str, str], log: bool) -> None:
    """One curve per model, from the output on the left to the image on the right."""
    for name, profile in named.items():
        values = clipped(profile.gradient, log=log)[::-1]
        depth = [i / max(len(values) - 1, 1) for i in range(len(values))]
        alike = [other for other in named if _alike(named[other].gradient, profile.gradient)]
        marker = "o" if len(values) <= 16 and len(alike) == 1 else ""
        (line,) = axes.plot(
            depth, values, marker=marker, ms=3.5, color=colours[name], clip_on=False
        )
        if len(alike) > 1:  # curves that coincide are drawn as dashes in turn
            offset, pause = _DASH * alike.index(name), _DASH * (len(alike) - 1)
            line.set(linestyle=(offset, (_DASH, pause)), dash_capstyle="butt")
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["output", "image"])
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)  # or it would run into the next column
    axes.set_xlabel("backwards, layer by layer", labelpad=-8)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    mark_one(axes)


def _alike(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two curves coincide."""
    return len(a) == len(b) and all(
        abs(x - y) <= 0.02 * max(x, y) for x, y in zip(a, b, strict=True)
    )


def _label_curves(axes: "Axes", named: _Named, colours: Mapping[str, str], log: bool) -> None:
    """Write the names beside the curves' ends at the image, without overlap."""
    points = 72 / axes.figure.dpi
    ends = [clipped(profile.gradient, log=log)[0] for profile in named.values()]
    heights = [float(points * axes.transData.transform((1, y))[1]) for y in ends]
    for name, y, height, moved in zip(named, ends, heights, spread(heights, 11.0), strict=True):
        axes.annotate(
            name,
            (1, y),
            xytext=(8, moved - height),
            textcoords="offset points",
            color=colours[name],
            fontsize=8.5,
            weight="bold",
            va="center",
            annotation_clip=False,
        )


def _draw_jacobians(axes: "Axes", named: _Named, colours: Mapping[str, str], log: bool) -> None:
    """A box per model: the range thin, the middle half thick, the median a dot."""
    for row, (name, colour) in enumerate(colours.items()):
        if name in named and named[name].jacobian:
            least, low, middle, high, most = clipped(named[name].jacobian, log=log)
            axes.plot([least, most], [row, row], color=colour, linewidth=1.4)
            axes.plot([low, high], [row, row], color=colour, linewidth=5)
            axes.plot(middle, row, "o", ms=6.5, color="white", mec=colour, mew=1.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_xlabel("singular values of the Jacobian")
