"""The gradient norm at the input of each layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taut.diagnostics import Inspection, LayerDiagnostics
from taut.plot._style import COLOURS, MUTED, clipped, mark_one, needs_log, styled_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 16  # layers named below the axis
_LONGEST = 16  # characters of a name


def gradient_norm(
    source: Inspection | Sequence[LayerDiagnostics], *, ax: "Axes | None" = None
) -> "Axes":
    """Gradient norm at the input of each layer, relative to that at the output, input to output.

    At the dashed line, 1, no later layer attenuates. The solid curve is the gradient of the margin,
    the dashed one a mean over directions of the output. In a branch, through which only a part of
    the signal passes, points are hollow and the curves leave them out.

    Args:
        source: result of :func:`taut.diagnostics.inspect` or
            :func:`taut.diagnostics.gradient_norms`.
        ax: axes to draw on; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if there is no layer.
        ImportError: if matplotlib is not installed.

    Example:
        >>> layers = taut.diagnostics.gradient_norms(taut.nn.Linear(2, 2), torch.ones(1, 2))
        >>> gradient_norm(layers).get_ylabel()
        'relative gradient norm'
    """
    layers = source.layers if isinstance(source, Inspection) else tuple(source)
    if not layers:
        raise ValueError("`source` must hold a layer; got none.")
    with styled_axes(ax) as axes:
        draw_along(axes, layers, {"margin": COLOURS[0], "random": COLOURS[1]})
        axes.set(xlabel="layer, input to output", ylabel="relative gradient norm")
    return axes


_STYLES = {"margin": "-", "random": (0, (5, 1.6))}
_NAMES = {"margin": "margin", "random": "all directions"}


def draw_along(axes: "Axes", layers: Sequence[LayerDiagnostics], colours: dict[str, str]) -> None:
    """The norms that `colours` names from left to right, their names at the right ends."""
    norms = {kind: [vars(layer)[kind] for layer in layers] for kind in colours}
    log = needs_log(value for values in norms.values() for value in values)
    mark_one(axes)
    whole = [i for i, layer in enumerate(layers) if layer.whole]
    for kind, values in norms.items():
        drawn, marker = clipped(values, log=log), "o" if len(layers) <= 40 else ""
        style = {"color": colours[kind], "linestyle": _STYLES[kind], "marker": marker, "ms": 4}
        axes.plot(whole, [drawn[i] for i in whole], label=_NAMES[kind], **style)
        branches = [i for i in range(len(layers)) if i not in whole]
        hollow = {"color": colours[kind], "mfc": "none", "ms": 4}
        if branches:
            axes.plot(branches, [drawn[i] for i in branches], "o", **hollow)
    named = range(0, len(layers), -(-len(layers) // _MOST_NAMES))
    labels = [brief(layers[i].label, _LONGEST) for i in named]
    axes.set_xticks(list(named), labels, rotation=35, ha="right", rotation_mode="anchor")
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(1.15, 1.15 * max(max(values) for values in norms.values())))
    if len(colours) > 1 and whole:
        _name_curves(axes, {kind: clipped(norms[kind], log=log) for kind in norms}, colours, whole)


def _name_curves(
    axes: "Axes", norms: dict[str, list[float]], colours: dict[str, str], whole: list[int]
) -> None:
    """Write the names above the upper curve and below the lower one, in the middle."""
    at = whole[len(whole) // 2]
    lower, upper = sorted(norms, key=lambda kind: norms[kind][at])
    for kind, shift in ((lower, -11.0), (upper, 11.0)):
        style = {"color": colours[kind], "fontsize": 8, "weight": "bold", "va": "center"}
        offset = {"xytext": (0, shift), "textcoords": "offset points", "ha": "center"}
        axes.annotate(_NAMES[kind], (at, norms[kind][at]), **offset, **style)


def draw_by_layer(axes: "Axes", layers: Sequence[LayerDiagnostics]) -> None:
    """The norms from top to bottom, beside histograms whose rows are the layers."""
    margin = [layer.margin for layer in layers]
    random = [layer.random for layer in layers]
    log = needs_log([*margin, *random])
    whole = [row for row, layer in enumerate(layers) if layer.whole]
    for norms, colour, kind in ((random, COLOURS[1], "random"), (margin, COLOURS[0], "margin")):
        values = clipped(norms, log=log)
        style = {"color": colour, "linestyle": _STYLES[kind]}
        axes.plot([values[row] for row in whole], whole, zorder=2, **style)
        for row, value in enumerate(values):
            face = colour if row in whole else "white"
            axes.plot(value, row, "o", ms=4.5, color=colour, mfc=face, zorder=3)
        axes.plot([], [], marker="o", ms=4.5, label=_NAMES[kind], **style)
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, max(1.1, 1.1 * max([*margin, *random])))
    axes.tick_params(axis="y", labelleft=False, length=0)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_title("Gradient at its input")
    hollow = "; hollow: in a branch" if len(whole) < len(layers) else ""
    axes.set_xlabel(f"norm, relative to the output's{hollow}", color=MUTED)
    axes.legend(frameon=False, fontsize=8, loc="best", labelcolor="linecolor")


def brief(name: str, longest: int) -> str:
    """The end of a long name, which tells it from others.

    Example:
        >>> brief("features.12.conv", 8)
        '…12.conv'
    """
    return name if len(name) <= longest else "…" + name[1 - longest :]
