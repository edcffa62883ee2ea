"""The charts of a run's report."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from markupsafe import Markup
from torch import Tensor

from taut.diagnostics import LayerDiagnostics
from taut.plot import ATTACKED_LINE, CERTIFIED_LINE, CLEAN_LINE, draw_along, spread
from taut.report._robustness import Robustness
from taut.report._svg import (
    ATTACKED,
    CERTIFIED,
    CLEAN,
    INK,
    LINE,
    MUTED,
    chart,
    inline,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CERTIFIED_LINES = (CERTIFIED_LINE, (0, (7, 1.6)), (0, (7, 1.6, 1, 1.6)))
"""One for each eps, in turn."""


def accuracy_chart(robustness: Robustness, eps: Sequence[str]) -> Markup:
    """Certified accuracy over eps, accuracy under attack, and the gap between them."""
    reach = reach_of(robustness.nearest, eps)
    grid = torch.linspace(0, reach, 300, dtype=torch.float64, device="cpu")
    certified = share_beyond(robustness.radius, grid)
    attacked = share_beyond(robustness.nearest, grid)
    with chart("eps: l2 norm of the perturbation", "accuracy in %") as (figure, axes):
        axes.fill_between(grid, certified, attacked, color=MUTED, alpha=0.13, linewidth=0)
        axes.plot(grid, attacked, color=ATTACKED, linestyle=ATTACKED_LINE)
        axes.plot(grid, certified, color=CERTIFIED, linestyle=CERTIFIED_LINE)
        for text in eps:
            radius = float(Fraction(text))
            axes.axvline(radius, color=LINE, linewidth=0.8, zorder=0)
            axes.plot(radius, 100 * robustness.attacked[text], "o", color=ATTACKED, ms=5)
            axes.plot(radius, 100 * robustness.certified(text), "o", color=CERTIFIED, ms=5)
        _name_curves(axes, grid, certified, attacked)
        axes.set(xlim=(0, reach), ylim=(0, 100))
        description = (
            f"Accuracy in percent over eps from 0 to {reach:.2g}: certified accuracy below, "
            "accuracy under attack above, the gap shaded."
        )
        return inline(figure, description, "accuracy")


def loss_chart(history: Sequence[Mapping[str, int | float]]) -> Markup:
    """Training loss over epochs."""
    with chart("epoch", "training loss", height=2.6) as (figure, axes):
        axes.plot(column(history, "epoch"), column(history, "train_loss"), color=INK)
        axes.set_ylim(bottom=0)
        whole_epochs(axes)
        return inline(figure, f"Training loss over {len(history)} epochs.", "loss")


def history_chart(
    history: Sequence[Mapping[str, int | float]], eps: Sequence[str], judged_on: str
) -> Markup:
    """Clean and certified accuracy over epochs, on the images that `judged_on` names."""
    epochs = column(history, "epoch")
    curves: dict[str, tuple[str, str, Any]] = {"clean": ("clean_accuracy", CLEAN, CLEAN_LINE)}
    for i, text in enumerate(eps):
        style = _CERTIFIED_LINES[i % len(_CERTIFIED_LINES)]
        curves[f"certified {text}"] = (f"certified_accuracy_{text}", CERTIFIED, style)
    with chart("epoch", f"{judged_on} accuracy in %", height=2.6) as (figure, axes):
        ends = []
        for name, colour, style in curves.values():
            values = [100 * share for share in column(history, name)]
            axes.plot(epochs, values, color=colour, linestyle=style)
            ends.append(values[-1])
        for (name, (_, colour, _)), y in zip(curves.items(), spread(ends, 8.0), strict=True):
            annotate(axes, name, (epochs[-1], y), (6, 0), color=colour, va="center")
        axes.set_ylim(0, 100)
        whole_epochs(axes)
        description = f"Clean and certified accuracy over {len(epochs)} epochs."
        return inline(figure, description, "history")


def gradient_chart(layers: Sequence[LayerDiagnostics]) -> Markup:
    """Norm of the margin's gradient at the input of each layer, relative to the output's."""
    with chart("layer, input to output", "gradient norm") as (figure, axes):
        draw_along(axes, layers, {"margin": CERTIFIED})
        text = ", ".join(f"{layer.label}: {layer.margin:.2g}" for layer in layers)
        return inline(figure, f"Gradient norm at the input of each layer: {text}.", "gradient")


def reach_of(distances: Tensor, eps: Sequence[str]) -> float:
    """Right end of the eps axis: beyond each eps and most distances."""
    finite = distances[distances.isfinite()]
    most = float(finite.quantile(0.98)) if len(finite) else 0.0
    return 1.1 * max([most, 1e-3, *(float(Fraction(text)) for text in eps)])


def share_beyond(values: Tensor, grid: Tensor) -> list[float]:
    """Percentage of `values` that exceed each point of the grid."""
    return (100 * (values[:, None] > grid).double().mean(0)).tolist()


def _name_curves(
    axes: "Axes", grid: Tensor, certified: Sequence[float], attacked: Sequence[float]
) -> None:
    """Write the names beside the curves where the gap is widest, but not near the ends."""
    gaps = [upper - lower for lower, upper in zip(certified, attacked, strict=True)]
    first, last = len(gaps) // 4, 3 * len(gaps) // 4
    widest = min(max(gaps.index(max(gaps)), first), last)
    annotate(
        axes, "attacked", (grid[widest], attacked[widest]), (6, 6), color=ATTACKED, weight="bold"
    )
    # The label hangs below its curve, which must be high enough there.
    high = [i for i in range(first, widest + 1) if certified[i] >= 14]
    i = high[-1] if high else widest
    style = {"color": CERTIFIED, "weight": "bold", "ha": "right", "va": "top"}
    annotate(axes, "certified", (grid[i], certified[i]), (-6, -6), **style)


def annotate(axes: "Axes", text: str, point: tuple, offset: tuple, **style: Any) -> None:
    """Text at an offset in points from a point of the chart; may lie beside the axes."""
    x, y = map(float, point)
    axes.annotate(text, (x, y), offset, textcoords="offset points", annotation_clip=False, **style)


def column(history: Sequence[Mapping[str, int | float]], name: str) -> list[float]:
    """One column of the metrics."""
    return [float(row[name]) for row in history]


def whole_epochs(axes: "Axes") -> None:
    """Number whole epochs alone."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
