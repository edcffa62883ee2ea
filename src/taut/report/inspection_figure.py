"""The picture of one model: spectra, gradient norms, and the spectrum of its Jacobian."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from taut.report._png import BEFORE, LINE, MUTED, NOW, OTHER, drawing, mark_one, shown, wide
from taut.report.inspection import SPAN, Inspection, LayerInspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BIN = 0.02


def save_inspection(
    path: str | os.PathLike[str],
    inspection: Inspection,
    before: Sequence[LayerInspection] = (),
) -> Path:
    """Draw the spectrum of each layer, the gradient norm by depth, and the Jacobian's spectrum.

    Args:
        path: of a file whose ending names the format.
        inspection: of the model.
        before: the same layers before training, drawn behind; empty for none.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from taut.report import inspect_model
        >>> found = inspect_model(taut.nn.Linear(3, 2), torch.ones(1, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_inspection(Path(folder, "a.png"), found).name
        'a.png'
    """
    from matplotlib.figure import Figure

    layers = inspection.layers
    with drawing():
        figure = Figure(figsize=(11.5, max(3.2, 0.38 * len(layers) + 1.5)), layout="constrained")
        grid = figure.add_gridspec(1, 3, width_ratios=(1.35, 1, 1))
        left = figure.add_subplot(grid[0])
        middle = figure.add_subplot(grid[1], sharey=left)
        _draw_spectra(left, layers, before)
        _draw_gradients(middle, layers)
        _draw_jacobian(figure.add_subplot(grid[2]), inspection.jacobian)
        figure.savefig(path)
    return Path(path)


def _draw_spectra(
    axes: "Axes", layers: Sequence[LayerInspection], before: Sequence[LayerInspection]
) -> None:
    past = {(layer.name, layer.gradient.call): layer.spectrum for layer in before}
    for place, layer in enumerate(layers):
        values = layer.spectrum
        if values is None:
            continue
        axes.axhline(place + 0.4, color=LINE, linewidth=0.7, zorder=0)
        counts, old = _bins(values), _bins(past.get((layer.name, layer.gradient.call)))
        scale = 0.75 / max([*counts.values(), *old.values()])
        for heights, face, edge in ((counts, NOW, NOW), (old, "none", OTHER)):
            for i, count in heights.items():
                height = max(scale * count, 0.03)
                span = [((i - 0.5) * _BIN, _BIN)]
                axes.broken_barh(span, (place + 0.4 - height, height), fc=face, ec=edge)
        ends = f"{float(values.min()):.4f}\nto {float(values.max()):.4f}"
        axes.text(SPAN + 2 * _BIN, place + 0.2, ends, fontsize=7, color=MUTED, va="center")
    labels = [f"{layer.type}  {layer.gradient.label}" for layer in layers]
    axes.set_yticks(range(len(layers)), labels)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, SPAN + _BIN)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_title("Singular values of each layer")
    outline = "; outlined: before training" if before else ""
    axes.set_xlabel(f"last bar: {SPAN} and above{outline}")


def _bins(values: Tensor | None) -> dict[int, int]:
    """Counts around multiples of `_BIN` that are not zero; finer than in text, centred at 1."""
    if values is None:
        return {}
    places = (values / _BIN).clamp(max=SPAN / _BIN).round().long()
    found, counts = places.unique(return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _draw_gradients(axes: "Axes", layers: Sequence[LayerInspection]) -> None:
    margin = [layer.gradient.margin for layer in layers]
    random = [layer.gradient.random for layer in layers]
    log = wide([*margin, *random])
    whole = [place for place, layer in enumerate(layers) if layer.gradient.whole]
    for values, colour, name in ((random, NOW, "all directions"), (margin, OTHER, "margin")):
        drawn = shown(values, log=log)
        axes.plot([drawn[i] for i in whole], whole, color=colour, zorder=2)
        for i, value in enumerate(drawn):
            face = colour if i in whole else "white"
            axes.plot(value, i, "o", ms=4.5, color=colour, mfc=face, zorder=3)
        axes.plot([], [], "o-", ms=4.5, color=colour, label=name)
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, max(1.1, 1.1 * max([*margin, *random])))
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_title("Gradient at its input")
    hollow = "; hollow: in a branch" if len(whole) < len(layers) else ""
    axes.set_xlabel(f"norm, relative to the output's{hollow}")
    axes.legend(frameon=False, fontsize=8, loc="best", labelcolor="linecolor")


def _draw_jacobian(axes: "Axes", values: Tensor | None) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Jacobian, image to output")
    if values is None:
        axes.text(0.5, 0.5, "too many outputs", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_axis_off()
        return
    ranks = list(range(1, values.shape[1] + 1))
    log = wide(values.flatten().tolist())
    quantiles = values.new_tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    least, low, middle, high, most = (
        shown(row.tolist(), log=log) for row in values.quantile(quantiles, dim=0)
    )
    axes.fill_between(ranks, least, most, color=BEFORE, alpha=0.35, linewidth=0)
    axes.fill_between(ranks, low, high, color=NOW, alpha=0.3, linewidth=0)
    axes.plot(ranks, middle, "o-" if len(ranks) <= 40 else "-", color=NOW, ms=4)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(1.1, 1.1 * float(values.max())))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    mark_one(axes)
    images = f"{len(values)} image{'s' if len(values) > 1 else ''}"
    axes.set_xlabel(f"i-th largest singular value; median,\nmiddle half and range of {images}")
