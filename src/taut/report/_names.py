"""Names beside the curves of a chart, in place of a legend."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taut.plot import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Points = NDArray[np.float64]

_STEP, _GAP, _NEAR = 10.0, 5.0, 20.0
"""In pixels: the grid of places to try, the least gap, and how near a name needs no leader."""
_LONGEST = 28


def name_curves(axes: "Axes", curves: Mapping[str, "Line2D"]) -> None:
    """Write the name of each curve near it, where no curve and no other name is.

    A name that is nearer to another curve, or far from its own, gets a thin line that leads there.

    Args:
        axes: with all their curves and limits.
        curves: the curve of each name.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # fixes where the axes lie
    paths = {name: _path(axes, line) for name, line in curves.items()}
    points = {name: path for name, path in paths.items() if len(path)}
    taken: list[Points] = []
    for name in points:
        line = curves[name]
        style: dict[str, Any] = {"color": line.get_color(), "size": 9}
        shown = brief(name, _LONGEST)
        measured = axes.text(0, 0, shown, **style)
        extent = measured.get_window_extent()
        measured.remove()
        half = np.array([extent.width, extent.height]) / 2
        others = [path for other, path in points.items() if other != name]
        place, target = _place(axes, half, points[name], others, taken)
        taken.append(np.array([place - half, place + half]))
        if target is not None:
            style["arrowprops"] = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.6}
        ends = axes.transData.inverted().transform([place if target is None else target, place])
        axes.annotate(shown, ends[0], ends[1], ha="center", va="center", **style)


def _path(axes: "Axes", line: "Line2D") -> Points:
    """Points of the curve on the canvas, at most 8 apart."""
    corners = axes.transData.transform(line.get_xydata())
    corners = corners[np.isfinite(corners).all(axis=1)]
    if not len(corners):
        return corners
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    at = np.linspace(0, along[-1], int(along[-1] / 8) + 2)
    return np.stack([np.interp(at, along, corners[:, i]) for i in (0, 1)], axis=1)


def _place(
    axes: "Axes", half: Points, own: Points, others: list[Points], taken: list[Points]
) -> tuple[Points, Points | None]:
    """The centre of a name, and the point to which a line leads from there, if it needs one."""
    low, high = np.asarray(axes.bbox.min) + half, np.asarray(axes.bbox.max) - half
    sides = [np.arange(a + 2, max(b, a + 3), _STEP) for a, b in zip(low, high, strict=True)]
    places = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    to_own = _distances(places, half, own)
    to_others = np.full(len(places), np.inf)
    for path in others:
        to_others = np.minimum(to_others, _distances(places, half, path))
    # Better near than far, and rather on the right. A place nearer to another curve is ambiguous;
    # one on a curve or on a name is the last resort.
    cost = to_own + 2 * np.maximum(0, to_own + 10 - to_others) - 0.02 * places[:, 0]
    cost += 1e4 * (np.minimum(to_own, to_others) < _GAP)
    for box in taken:
        apart = np.maximum(box[0] - places - half, places - half - box[1]).max(axis=1)
        cost += 1e6 * (apart < _GAP)
    best = int(cost.argmin())
    if to_own[best] <= _NEAR and to_own[best] <= to_others[best]:
        return places[best], None
    return places[best], own[np.linalg.norm(own - places[best], axis=1).argmin()]


def _distances(places: Points, half: Points, path: Points) -> Points:
    """The distance of a box around each place from a curve."""
    # (places, points) along each axis
    x, y = (np.maximum(np.abs(places[:, None, i] - path[None, :, i]) - half[i], 0) for i in (0, 1))
    return np.sqrt((x * x + y * y).min(axis=1))
