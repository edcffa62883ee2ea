"""The singular values of layers, one histogram each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from jaxtyping import Float64
from torch import Tensor

from taut.diagnostics import Inspection
from taut.plot._style import COLOURS, LINE, MUTED, mark_one, styled_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BIN, _SPAN = 0.02, 1.2
Spectra = Mapping[str, Float64[Tensor, " s"] | None]


def spectrum(
    source: Inspection | Spectra,
    *,
    before: Spectra = MappingProxyType({}),
    ax: "Axes | None" = None,
) -> "Axes":
    """Histograms of the singular values of each linear layer.

    A layer whose values are all 1 is orthogonal: it is drawn as a single bar at the dashed line.
    Bars are 0.02 wide and centred at multiples of 0.02; the last one takes all values above 1.2.

    Args:
        source: result of :func:`taut.diagnostics.inspect` or :func:`taut.diagnostics.spectra`.
        before: values of the same layers at another time, as before training, drawn as outlines.
        ax: axes to draw on; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if no layer is linear.
        ImportError: if matplotlib is not installed.

    Example:
        >>> values = taut.diagnostics.spectra(torch.nn.Sequential(taut.nn.Linear(3, 2)), (3,))
        >>> [label.get_text() for label in spectrum(values).get_yticklabels()]
        ['0']
    """
    if isinstance(source, Inspection):
        source = {layer.label: layer.spectrum for layer in source.layers}
    linear = {name: values for name, values in source.items() if values is not None}
    if not linear:
        raise ValueError("`source` must hold a linear layer; got none.")
    with styled_axes(ax, 6.0, 0.38 * len(linear) + 1.5) as axes:
        draw_spectra(axes, linear, before)
    return axes


def draw_spectra(axes: "Axes", layers: Spectra, before: Spectra) -> None:
    """One histogram per row, its largest bar 0.75 high; rows without values stay empty."""
    for row, (name, values) in enumerate(layers.items()):
        if values is None:
            continue
        axes.axhline(row + 0.4, color=LINE, linewidth=0.7, zorder=0)
        counts, old = bar_counts(values), bar_counts(before.get(name))
        scale = 0.75 / max([*counts.values(), *old.values()])
        for bars, face, edge in ((counts, COLOURS[0], COLOURS[0]), (old, "none", COLOURS[1])):
            for i, count in bars.items():
                height = max(scale * count, 0.03)
                span = [((i - 0.5) * _BIN, _BIN)]
                axes.broken_barh(span, (row + 0.4 - height, height), fc=face, ec=edge)
        ends = f"{float(values.min()):.4f}\nto {float(values.max()):.4f}"
        axes.text(_SPAN + 2 * _BIN, row + 0.2, ends, fontsize=7, color=MUTED, va="center")
    axes.set_yticks(range(len(layers)), list(layers))
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, _SPAN + _BIN)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_title("Singular values of each layer")
    outlined = "; outlined: before training" if before else ""
    axes.set_xlabel(f"last bar: {_SPAN} or more{outlined}")


def bar_counts(values: Tensor | None) -> dict[int, int]:
    """Nonzero counts around multiples of the bar width, so that a bar is centred at 1."""
    if values is None:
        return {}
    bins = (values.clamp(max=_SPAN) / _BIN).round().long()
    bins, counts = bins.unique(return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))
