"""The picture that sets models side by side: gradient norms by depth, spectra of Jacobians."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from jaxtyping import Float64
from torch import Tensor

from taut.report._png import COLOURS, LINE, apart, drawing, mark_one, shown, wide
from taut.report.inspection import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASH = 4.0
_CHARACTER = 0.1
"""Inches of a bold letter of a name, at most; narrower ones leave room."""


@final
@dataclass(frozen=True)
class Profile:
    """One model in a comparison.

    Attributes:
        gradient: norm at each depth, relative to the output's: the image first, the output last.
        jacobian: smallest, lower quartile, median, upper quartile and largest singular value of
            the Jacobian, over all images; empty for none.

    Example:
        >>> Profile(gradient=[1.0, 1.0], jacobian=[1.0] * 5).gradient[-1]
        1.0
    """

    gradient: Sequence[float]
    jacobian: Sequence[float] = ()


def profile(inspection: Inspection) -> Profile:
    """What a comparison shows of a model: norms where the whole signal passes.

    Example:
        >>> from taut.report import inspect_model
        >>> profile(inspect_model(taut.nn.Linear(3, 2), torch.ones(1, 3))).gradient[-1]
        1.0
    """
    norms = [layer.gradient.random for layer in inspection.layers if layer.gradient.whole]
    values = inspection.jacobian
    return Profile([*norms, 1.0], () if values is None else five_numbers(values))


def five_numbers(values: Float64[Tensor, "..."]) -> list[float]:
    """Smallest, lower quartile, median, upper quartile and largest value.

    Example:
        >>> five_numbers(torch.tensor([3.0, 1.0, 2.0]).double())
        [1.0, 1.5, 2.0, 2.5, 3.0]
    """
    return values.flatten().quantile(values.new_tensor([0, 0.25, 0.5, 0.75, 1])).tolist()


def save_attenuation(
    path: str | os.PathLike[str], columns: Mapping[str, Mapping[str, Profile]]
) -> Path:
    """Draw models side by side: gradient norm by depth above, spectrum of the Jacobian below.

    A model has one colour in all columns, that of its name. Scales are shared; what is below
    `FLOOR` on a logarithmic one is drawn there.

    Args:
        path: of a file whose ending names the format.
        columns: the models by name, for each column by its title.

    Returns:
        The path.

    Raises:
        ValueError: if there is no model.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_attenuation(Path(folder, "a.png"), {"": {"mine": Profile([0.5, 1.0])}}).name
        'a.png'
    """
    from matplotlib.figure import Figure

    profiles = [profile for named in columns.values() for profile in named.values()]
    if not profiles:
        raise ValueError("`columns` must hold a model; got none.")
    names = list(dict.fromkeys(name for named in columns.values() for name in named))
    norms = [x for one in profiles for x in one.gradient]
    values = [x for one in profiles for x in one.jacobian]
    log = wide([*norms, *values])
    with drawing():
        heights = (3.3, 0.27 * len(names) + 0.75) if values else (3.3,)
        figure = Figure(figsize=(_width(columns, names), sum(heights)), layout="constrained")
        grid = figure.subplots(len(heights), len(columns), squeeze=False, height_ratios=heights)
        for i, (title, named) in enumerate(columns.items()):
            _draw_gradients(grid[0, i], named, names, log)
            _finish_gradients(grid[0, i], _limits(norms, log), log, first=i == 0)
            grid[0, i].set_title(title)
            if values:
                _draw_jacobians(grid[1, i], named, names, log)
                _finish_jacobians(grid[1, i], _limits(values, log), log)
                _label_rows(grid[1, i], names if i == 0 else [])
        figure.draw_without_rendering()
        _label_curves(grid[0, -1], list(columns.values())[-1], names, log)
        figure.savefig(path)
    return Path(path)


def _width(columns: Mapping[str, object], names: Sequence[str]) -> float:
    """Inches that leave every column its room, with names on both sides."""
    beyond = max(0, max(map(len, names)) - 10)
    return 3.3 * len(columns) + (2.8 if len(columns) == 1 else 1.6) + 2 * _CHARACTER * beyond


def _colour(name: str, names: Sequence[str]) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _draw_gradients(
    axes: "Axes", named: Mapping[str, Profile], names: Sequence[str], log: bool
) -> None:
    for name, one in named.items():
        values = shown(one.gradient, log=log)[::-1]
        way = [i / max(len(values) - 1, 1) for i in range(len(values))]
        alike = [other for other in named if _alike(named[other].gradient, one.gradient)]
        marker = "o" if len(values) <= 16 and len(alike) == 1 else ""
        # Where curves coincide, each shows in turn.
        turn, others = _DASH * alike.index(name), _DASH * (len(alike) - 1)
        style = (turn, (_DASH, others)) if others else "-"
        colour = _colour(name, names)
        (line,) = axes.plot(way, values, marker=marker, ms=3.5, color=colour, clip_on=False)
        line.set_linestyle(style)
        line.set_dash_capstyle("butt")


def _finish_gradients(axes: "Axes", limits: tuple[float, float], log: bool, *, first: bool) -> None:
    axes.set_yscale("log" if log else "linear")
    axes.set_ylim(limits)
    if first:
        axes.set_ylabel("gradient norm,\nrelative to the output's")
    axes.tick_params(axis="y", labelleft=first)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["output", "image"])
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)  # the next column begins at once
    axes.set_xlabel("way back, layer by layer", labelpad=-8)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    mark_one(axes)


def _alike(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two curves lie on each other."""
    pairs = zip(a, b, strict=len(a) == len(b))
    return len(a) == len(b) and all(abs(x - y) <= 0.02 * max(x, y) for x, y in pairs)


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of an axis that shows all values, and 1, with room for names."""
    drawn = [1.0, *(x for x in shown(values, log=log) if math.isfinite(x))]
    least, most = min(drawn), max(drawn)
    if not log:
        return 0.0, 1.1 * most
    room = (most / least) ** 0.08
    return least / room, most * room


def _label_curves(
    axes: "Axes", named: Mapping[str, Profile], names: Sequence[str], log: bool
) -> None:
    """Names the curves beside their ends at the image, apart where two would overlap."""
    points = 72 / axes.figure.dpi
    ends = [shown(one.gradient, log=log)[0] for one in named.values()]
    heights = [float(points * axes.transData.transform((1, y))[1]) for y in ends]
    for name, y, height, place in zip(named, ends, heights, apart(heights, 11.0), strict=True):
        axes.annotate(
            name,
            (1, y),
            xytext=(8, place - height),
            textcoords="offset points",
            color=_colour(name, names),
            fontsize=8.5,
            weight="bold",
            va="center",
            annotation_clip=False,
        )


def _draw_jacobians(
    axes: "Axes", named: Mapping[str, Profile], names: Sequence[str], log: bool
) -> None:
    for name, one in named.items():
        if not one.jacobian:
            continue
        place, colour = names.index(name), _colour(name, names)
        least, low, middle, high, most = shown(one.jacobian, log=log)
        axes.plot([least, most], [place, place], color=colour, linewidth=1.4)
        axes.plot([low, high], [place, place], color=colour, linewidth=5)
        axes.plot(middle, place, "o", ms=6.5, color="white", mec=colour, mew=1.6)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _finish_jacobians(axes: "Axes", limits: tuple[float, float], log: bool) -> None:
    axes.set_xscale("log" if log else "linear")
    axes.set_xlim(limits)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_xlabel("singular values of the Jacobian")


def _label_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Names of the rows; none where the first column has them."""
    axes.set_yticks(range(len(names)), names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(_colour(name, names))
        label.set_fontweight("bold")
