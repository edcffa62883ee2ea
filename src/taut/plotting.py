"""What figures share: colours, settings of matplotlib, logarithmic axes, labels kept apart."""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, FAINT, LINE = "#1c1b19", "#5f5c56", "#b9b2a6", "#e4e0d8"
COLOURS = (
    *("#0b6e63", "#b4470f", "#3d4f8f", "#a58a12", "#8a5a9e"),
    *("#5f5a52", "#2f8fc4", "#9c3a4a", "#4f8f3a", "#c2703d"),
)
"""Colours of curves, in this order."""

FLOOR = 1e-20
"""Smaller values are drawn as this one on a logarithmic axis."""


def plot_style(
    ink: str = INK, muted: str = MUTED, edge: str = FAINT, **settings: object
) -> AbstractContextManager[None]:
    """Settings of matplotlib for one figure; the global ones stay as they are.

    Args:
        ink: colour of text.
        muted: colour of labels.
        edge: colour of axes and ticks.
        **settings: further settings, with underscores for dots.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> with plot_style(font_size=12):
        ...     pass
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("Figures need matplotlib: pip install 'taut[cli]'.") from None
    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "figure.dpi": 160,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": edge,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "xtick.color": edge,
        "ytick.color": edge,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
    }
    style.update({name.replace("_", "."): value for name, value in settings.items()})
    return matplotlib.rc_context(style)


def needs_log(values: Iterable[float]) -> bool:
    """Whether the positive values are so far from 1 that they need a logarithmic axis.

    Example:
        >>> needs_log([1.0, 0.7]), needs_log([1.0, 1e-3]), needs_log([1.0, 0.0])
        (False, True, False)
    """
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    return bool(positive) and (min(positive) < 0.05 or max(positive) > 20)


def clipped(values: Sequence[float], *, log: bool) -> list[float]:
    """The values as the axis can show them.

    Example:
        >>> clipped([1.0, 0.0], log=True)
        [1.0, 1e-20]
    """
    return [max(value, FLOOR) for value in values] if log else list(values)


def mark_one(axes: "Axes", *, vertical: bool = False, colour: str = FAINT) -> None:
    """Draw a dashed line at 1, where nothing is lost."""
    draw = axes.axvline if vertical else axes.axhline
    draw(1, color=colour, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """The nearest positions (least squares) in the same order that are at least `gap` apart.

    Args:
        positions: in any order.
        gap: the least distance.

    Example:
        >>> spread([10.0, 0.0, 10.0], 4.0)
        [8.0, 0.0, 12.0]
    """
    order = sorted(range(len(positions)), key=positions.__getitem__)
    # positions[order[i]] - i * gap must not decrease: pool adjacent violators.
    pools: list[list[float]] = []
    for i, index in enumerate(order):
        pools.append([positions[index] - i * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    means = [fmean(pool) for pool in pools for _ in pool]
    moved = {index: means[i] + i * gap for i, index in enumerate(order)}
    return [moved[index] for index in range(len(positions))]
