"""The charts of a run's report."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from markupsafe import Markup
from torch import Tensor

from taut.report._svg import ATTACKED, CERTIFIED, CLEAN, INK, LINE, MUTED, canvas, drawing, inline
from taut.report.inspection import LayerInspection
from taut.report.robustness import Robustness

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy_chart(robustness: Robustness, eps: Sequence[str]) -> Markup:
    """Certified accuracy over eps, what the attack leaves above it, and the gap between them.

    Example:
        >>> from torch import nn
        >>> from taut.report.robustness import measure
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> found = measure(model, images, ("0.1",), taut.certify(model, images, labels), steps=10)
        >>> "attacked" in accuracy_chart(found, ("0.1",))
        True
    """
    reach = _reach(robustness, eps)
    grid = torch.linspace(0, reach, 300, dtype=torch.float64)
    proved = _share_beyond(robustness.radius, grid)
    survived = _share_beyond(robustness.nearest, grid)
    with drawing():
        figure, axes = canvas("eps: l2 length of the change, pixels in [0, 1]", "accuracy in %")
        axes.fill_between(grid, proved, survived, color=MUTED, alpha=0.13, linewidth=0)
        axes.plot(grid, survived, color=ATTACKED)
        axes.plot(grid, proved, color=CERTIFIED)
        for text in eps:
            radius = float(Fraction(text))
            axes.axvline(radius, color=LINE, linewidth=0.8, zorder=0)
            axes.plot(radius, 100 * robustness.attacked[text], "o", color=ATTACKED, ms=5)
            axes.plot(radius, 100 * robustness.certified(text), "o", color=CERTIFIED, ms=5)
        _name_curves(axes, grid, proved, survived)
        axes.set_xlim(0, reach)
        axes.set_ylim(0, 100)
    description = (
        "Accuracy in percent over eps from 0 to "
        f"{reach:.2g}: certified accuracy below, accuracy under attack above, the gap shaded."
    )
    return inline(figure, description, "accuracy")


def loss_chart(history: Sequence[Mapping[str, int | float]]) -> Markup:
    """Training loss over epochs.

    Example:
        >>> "epoch" in loss_chart([{"epoch": 1, "train_loss": 0.5}])
        True
    """
    epochs, losses = _column(history, "epoch"), _column(history, "train_loss")
    with drawing():
        figure, axes = canvas("epoch", "training loss", height=2.6)
        axes.plot(epochs, losses, color=INK)
        axes.set_ylim(bottom=0)
        _whole_epochs(axes)
    return inline(figure, f"Training loss over {len(epochs)} epochs.", "loss")


def history_chart(history: Sequence[Mapping[str, int | float]], eps: Sequence[str]) -> Markup:
    """Clean and certified test accuracy over epochs.

    Example:
        >>> rows = [{"epoch": 1, "clean_accuracy": 0.5, "certified_accuracy_0.3": 0.2}]
        >>> "certified 0.3" in history_chart(rows, ("0.3",))
        True
    """
    epochs = _column(history, "epoch")
    curves = [("clean", CLEAN, _column(history, "clean_accuracy"))]
    for text in eps:
        values = _column(history, f"certified_accuracy_{text}")
        curves.append((f"certified {text}", CERTIFIED, values))
    with drawing():
        figure, axes = canvas("epoch", "test accuracy in %", height=2.6)
        for _, colour, shares in curves:
            values = [100 * share for share in shares]
            axes.plot(epochs, values, color=colour)
        ends = _spread([100 * shares[-1] for _, _, shares in curves], gap=9.0)
        for (name, colour, _), height in zip(curves, ends, strict=True):
            axes.annotate(
                name,
                (epochs[-1], height),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                annotation_clip=False,
            )
        axes.set_ylim(0, 100)
        _whole_epochs(axes)
    return inline(figure, f"Clean and certified accuracy over {len(epochs)} epochs.", "history")


def gradient_chart(layers: Sequence[LayerInspection]) -> Markup:
    """Norm of the margin's gradient at the input of each layer, the output's being 1.

    Example:
        >>> from taut.report.inspection import inspect_layers
        >>> "layer" in gradient_chart(inspect_layers(taut.nn.Linear(2, 2), torch.ones(1, 2)))
        True
    """
    places = list(range(len(layers)))
    values = [layer.gradient_norm for layer in layers]
    with drawing():
        figure, axes = canvas("layer, input to output", "gradient norm", height=2.6)
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.plot(places, values, color=CERTIFIED, marker="o", ms=4)
        axes.set_xticks(places, [layer.gradient.label for layer in layers], rotation=35, ha="right")
        axes.set_ylim(0, max(1.1, 1.1 * max(values)))
    text = ", ".join(f"{layer.gradient.label}: {layer.gradient_norm:.2f}" for layer in layers)
    return inline(figure, f"Gradient norm at the input of each layer: {text}.", "gradient")


def _reach(robustness: Robustness, eps: Sequence[str]) -> float:
    """Right end of the eps axis: beyond every eps asked for and most attacks."""
    finite = robustness.nearest[robustness.nearest.isfinite()]
    most = float(finite.quantile(0.98)) if len(finite) else 0.0
    return 1.1 * max([most, 1e-3, *(float(Fraction(text)) for text in eps)])


def _share_beyond(values: Tensor, grid: Tensor) -> list[float]:
    """Percentage of `values` that exceed each point of the grid."""
    return (100 * (values.cpu()[:, None] > grid).double().mean(0)).tolist()


def _name_curves(axes: "Axes", grid: Tensor, proved: list[float], survived: list[float]) -> None:
    """Write the names of the curves beside them, where the gap is widest."""
    gaps = [upper - lower for lower, upper in zip(proved, survived, strict=True)]
    widest = min(max(gaps.index(max(gaps)), len(gaps) // 8), 3 * len(gaps) // 4)
    place = float(grid[widest])
    axes.annotate(
        "attacked",
        (place, survived[widest]),
        xytext=(6, 6),
        textcoords="offset points",
        color=ATTACKED,
        weight="bold",
    )
    # Where the curve is lower than the label is high, the label would stand on the axis.
    high = [i for i in range(len(grid) // 8, widest + 1) if proved[i] >= 14]
    below = high[-1] if high else widest
    axes.annotate(
        "certified",
        (float(grid[below]), proved[below]),
        xytext=(-6, -6),
        textcoords="offset points",
        ha="right",
        va="top",
        color=CERTIFIED,
        weight="bold",
    )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move labels up as far as needed to stand `gap` apart."""
    placed = list(heights)
    order = sorted(range(len(placed)), key=placed.__getitem__)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


def _column(history: Sequence[Mapping[str, int | float]], name: str) -> list[float]:
    return [float(row[name]) for row in history]


def _whole_epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
