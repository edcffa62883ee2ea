"""What figures share: colours, line styles, settings of matplotlib, labels kept apart."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, FAINT, LINE = "#1c1b19", "#5f5c56", "#b9b2a6", "#e4e0d8"
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#aa4a85"),
    *("#a06a00", "#3f8fc4", "#1c1b19", "#7a3b00"),
)
"""Colours of curves, in this order: those of Okabe and Ito for readers who are colour-blind, with
the light ones darkened, so that a name in the colour of its curve is legible on white."""

CERTIFIED, ATTACKED, CLEAN = COLOURS[0], COLOURS[1], MUTED
CERTIFIED_LINE = "-"
ATTACKED_LINE = (0, (5, 1.6))
CLEAN_LINE = (0, (1, 1.6))
"""Every curve also has a line style of its own, for prints without colours."""

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


@contextmanager
def styled_axes(ax: "Axes | None", width: float = 5.0, height: float = 3.2) -> Iterator["Axes"]:
    """The axes given, or those of a new figure; the style of taut holds inside the context.

    Args:
        ax: axes of the caller, or None.
        width: of a new figure, in inches.
        height: of a new figure, in inches.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> with styled_axes(None) as axes:
        ...     len(axes.figure.axes)
        1
    """
    with plot_style():
        from matplotlib.figure import Figure

        if ax is not None:
            yield ax
            return
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.add_subplot()
        figure.draw_without_rendering()  # ticks take their colours from the style now


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
