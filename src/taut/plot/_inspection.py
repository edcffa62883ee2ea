"""The figure of one model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from jaxtyping import Float64
from torch import Tensor

from taut.diagnostics import Inspection
from taut.plot._gradient_norm import draw_by_layer
from taut.plot._spectrum import draw_spectra
from taut.plot._style import COLOURS, FAINT, MUTED, clipped, mark_one, needs_log, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def inspection(
    found: Inspection, before: Mapping[str, Float64[Tensor, " s"]] = MappingProxyType({})
) -> "Figure":
    """Plot the spectrum of each layer, the gradient norm by depth, and the Jacobian's spectrum.

    Args:
        found: of the model.
        before: spectra of the same layers before training (see :func:`spectra`), drawn as outlines.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> from taut.diagnostics import inspect
        >>> found = inspect(taut.nn.Linear(3, 2), torch.ones(1, 3))
        >>> inspection(found).axes[0].get_title(loc="left")
        'Singular values of each layer'
    """
    layers = found.layers
    with plot_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, max(3.2, 0.38 * len(layers) + 1.5)), layout="constrained")
        grid = figure.add_gridspec(1, 3, width_ratios=(1.35, 1, 1))
        left = figure.add_subplot(grid[0])
        names = {layer.label: f"{layer.type}  {layer.label}" for layer in layers}
        draw_spectra(
            left,
            {names[layer.label]: layer.spectrum for layer in layers},
            {names[label]: values for label, values in before.items() if label in names},
        )
        draw_by_layer(figure.add_subplot(grid[1], sharey=left), layers)
        _draw_jacobian(figure.add_subplot(grid[2]), found.jacobian)
        figure.draw_without_rendering()  # ticks take their colours from the style now
    return figure


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
    axes.fill_between(ranks, low, high, color=COLOURS[0], alpha=0.3, linewidth=0)
    axes.plot(ranks, middle, "o-" if len(ranks) <= 40 else "-", color=COLOURS[0], ms=4)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(1.1, 1.1 * float(values.max())))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    mark_one(axes)
    images = f"{len(values)} image{'s' if len(values) > 1 else ''}"
    axes.set_xlabel(f"i-th largest singular value; median,\nmiddle half and range of {images}")
