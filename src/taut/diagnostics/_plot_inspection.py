"""The figure of one model."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from jaxtyping import Float64
from torch import Tensor

from taut.diagnostics._inspection import Inspection, LayerDiagnostics
from taut.diagnostics._spectra import HISTOGRAM_SPAN
from taut.plotting import COLOURS, FAINT, LINE, MUTED, clipped, mark_one, needs_log, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOW, _OTHER = COLOURS[:2]
_BIN = 0.02


def plot_inspection(
    inspection: Inspection, before: Mapping[str, Float64[Tensor, " s"]] = MappingProxyType({})
) -> "Figure":
    """Plot the spectrum of each layer, the gradient norm by depth, and the Jacobian's spectrum.

    Args:
        inspection: of the model.
        before: spectra of the same layers before training (see :func:`spectra`), drawn as outlines.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> from taut.diagnostics import inspect
        >>> inspection = inspect(taut.nn.Linear(3, 2), torch.ones(1, 3))
        >>> plot_inspection(inspection).axes[0].get_title(loc="left")
        'Singular values of each layer'
    """
    layers = inspection.layers
    with plot_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, max(3.2, 0.38 * len(layers) + 1.5)), layout="constrained")
        grid = figure.add_gridspec(1, 3, width_ratios=(1.35, 1, 1))
        left = figure.add_subplot(grid[0])
        _draw_spectra(left, layers, before)
        _draw_gradients(figure.add_subplot(grid[1], sharey=left), layers)
        _draw_jacobian(figure.add_subplot(grid[2]), inspection.jacobian)
        figure.draw_without_rendering()  # ticks take their colours from the style now
    return figure


def _draw_spectra(
    axes: "Axes", layers: Sequence[LayerDiagnostics], before: Mapping[str, Tensor]
) -> None:
    """One histogram per linear layer, its largest bar 0.75 high."""
    for row, layer in enumerate(layers):
        if (values := layer.spectrum) is None:
            continue
        axes.axhline(row + 0.4, color=LINE, linewidth=0.7, zorder=0)
        counts, old = _counts(values), _counts(before.get(layer.label))
        scale = 0.75 / max([*counts.values(), *old.values()])
        for bars, face, edge in ((counts, _NOW, _NOW), (old, "none", _OTHER)):
            for i, count in bars.items():
                height = max(scale * count, 0.03)
                span = [((i - 0.5) * _BIN, _BIN)]
                axes.broken_barh(span, (row + 0.4 - height, height), fc=face, ec=edge)
        ends = f"{float(values.min()):.4f}\nto {float(values.max()):.4f}"
        right = HISTOGRAM_SPAN + 2 * _BIN
        axes.text(right, row + 0.2, ends, fontsize=7, color=MUTED, va="center")
    labels = [f"{layer.type}  {layer.label}" for layer in layers]
    axes.set_yticks(range(len(layers)), labels)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, HISTOGRAM_SPAN + _BIN)
    outlined = "; outlined: before training" if before else ""
    _finish(axes, "Singular values of each layer", f"last bar: {HISTOGRAM_SPAN} or more{outlined}")


def _counts(values: Tensor | None) -> dict[int, int]:
    """Nonzero counts around multiples of `_BIN`, so that a bar is centred at 1."""
    if values is None:
        return {}
    bins = (values.clamp(max=HISTOGRAM_SPAN) / _BIN).round().long()
    bins, counts = bins.unique(return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


def _draw_gradients(axes: "Axes", layers: Sequence[LayerDiagnostics]) -> None:
    """Norms from top to bottom; the line leaves out branches, whose points are hollow."""
    margin = [layer.margin for layer in layers]
    random = [layer.random for layer in layers]
    log = needs_log([*margin, *random])
    whole = [row for row, layer in enumerate(layers) if layer.whole]
    for norms, colour, name in ((random, _NOW, "all directions"), (margin, _OTHER, "margin")):
        values = clipped(norms, log=log)
        axes.plot([values[row] for row in whole], whole, color=colour, zorder=2)
        for row, value in enumerate(values):
            face = colour if row in whole else "white"
            axes.plot(value, row, "o", ms=4.5, color=colour, mfc=face, zorder=3)
        axes.plot([], [], "o-", ms=4.5, color=colour, label=name)
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, max(1.1, 1.1 * max([*margin, *random])))
    axes.tick_params(axis="y", labelleft=False)
    hollow = "; hollow: in a branch" if len(whole) < len(layers) else ""
    _finish(axes, "Gradient at its input", f"norm, relative to the output's{hollow}")
    axes.legend(frameon=False, fontsize=8, loc="best", labelcolor="linecolor")


def _finish(axes: "Axes", title: str, label: str) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_title(title)
    axes.set_xlabel(label)


def _draw_jacobian(axes: "Axes", values: Tensor | None) -> None:
    """Quartiles and range over the images of the i-th largest singular value."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Jacobian, image to output")
    if values is None:
        axes.text(0.5, 0.5, "too many outputs", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_axis_off()
        return
    ranks = list(range(1, values.shape[1] + 1))
    log = needs_log(values.flatten().tolist())
    quantiles = values.quantile(values.new_tensor([0.0, 0.25, 0.5, 0.75, 1.0]), dim=0)
    least, low, middle, high, most = (clipped(row, log=log) for row in quantiles.tolist())
    axes.fill_between(ranks, least, most, color=FAINT, alpha=0.35, linewidth=0)
    axes.fill_between(ranks, low, high, color=_NOW, alpha=0.3, linewidth=0)
    axes.plot(ranks, middle, "o-" if len(ranks) <= 40 else "-", color=_NOW, ms=4)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(1.1, 1.1 * float(values.max())))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    mark_one(axes)
    images = f"{len(values)} image{'s' if len(values) > 1 else ''}"
    axes.set_xlabel(f"i-th largest singular value; median,\nmiddle half and range of {images}")
