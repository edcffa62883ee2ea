"""Colours and settings of figures that are saved as pictures by themselves."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE = "#1c1b19", "#5f5c56", "#e4e0d8"
NOW, BEFORE, OTHER = "#0b6e63", "#b9b2a6", "#b4470f"
COLOURS = (
    "#0b6e63",
    "#b4470f",
    "#3d4f8f",
    "#a58a12",
    "#8a5a9e",
    "#5f5a52",
    "#2f8fc4",
    "#9c3a4a",
    "#4f8f3a",
    "#c2703d",
)
"""One a curve, told apart in this order."""

FLOOR = 1e-20
"""What lies below on a logarithmic axis is drawn here."""


def drawing() -> AbstractContextManager[None]:
    """Settings of matplotlib for one figure; those outside stay as they are.

    Example:
        >>> with drawing():
        ...     pass
    """
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.family": "sans-serif",
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": MUTED,
            "axes.edgecolor": "#b9b2a6",
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "xtick.color": "#b9b2a6",
            "ytick.color": "#b9b2a6",
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED,
            "lines.linewidth": 1.8,
            "lines.solid_capstyle": "round",
            "savefig.dpi": 160,
        }
    )


def wide(values: Sequence[float]) -> bool:
    """Whether values want a logarithmic axis: the least that is positive is far below 1.

    Example:
        >>> wide([1.0, 0.7]), wide([1.0, 1e-3]), wide([1.0, 0.0])
        (False, True, False)
    """
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    return bool(positive) and (min(positive) < 0.05 or max(positive) > 20)


def shown(values: Sequence[float], *, log: bool) -> list[float]:
    """The values as an axis can show them: none below `FLOOR` on a logarithmic one.

    Example:
        >>> shown([1.0, 0.0], log=True)
        [1.0, 1e-20]
    """
    return [max(value, FLOOR) for value in values] if log else list(values)


def mark_one(axes: "Axes", *, vertical: bool = False) -> None:
    """Draw the line where nothing is lost.

    Example:
        >>> from matplotlib.figure import Figure
        >>> mark_one(Figure().subplots())
    """
    draw = axes.axvline if vertical else axes.axhline
    draw(1, color="#b9b2a6", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)


def apart(places: Sequence[float], least: float) -> list[float]:
    """The nearest places (least squares) that keep their order and a least distance.

    Args:
        places: in any order.
        least: the distance.

    Example:
        >>> apart([10.0, 0.0, 10.0], 4.0)
        [8.0, 0.0, 12.0]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    # Less their distances they only have to rise: what does not is replaced by its mean.
    pools: list[list[float]] = []
    for i, index in enumerate(order):
        pools.append([places[index] - i * least])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    flat = [_mean(pool) for pool in pools for _ in pool]
    found = {index: flat[i] + i * least for i, index in enumerate(order)}
    return [found[index] for index in range(len(places))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
