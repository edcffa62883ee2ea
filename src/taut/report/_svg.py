"""Matplotlib figures as inline SVG that takes its colours and font from the page's style."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from taut.plot import plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib needs plain colours. Each stands for a variable of the page's style and is replaced by
# it in the SVG text, so that one chart serves light and dark pages. That is why pages have charts
# beside those of `taut.plot`, with which they share line styles and the drawing of gradients.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
CERTIFIED, ATTACKED, CLEAN = "#040404", "#050505", "#060606"
SERIES = ("#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b", "#0c0c0c")
"""Colours of runs that are compared."""

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    CERTIFIED: "var(--certified)",
    ATTACKED: "var(--attacked)",
    CLEAN: "var(--clean)",
    **{colour: f"var(--s{i})" for i, colour in enumerate(SERIES, start=1)},
}
_SETTINGS = {"grid_color": LINE, "svg_fonttype": "none", "svg_hashsalt": "taut"}


@contextmanager
def chart(x_label: str, y_label: str, *, height: float = 3.1) -> Iterator[tuple["Figure", "Axes"]]:
    """An empty figure and its axes; the style holds inside the context."""
    with plot_style(INK, MUTED, LINE, font_size=10, **_SETTINGS):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.8, height), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        axes.grid(axis="y")
        yield figure, axes


def inline(figure: "Figure", description: str, prefix: str) -> Markup:
    """The figure as an SVG element, inside `chart`; `prefix` keeps its ids apart from others."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', text)
    opening = f'<svg role="img" aria-label="{escape(description)}" viewBox="{box and box[1]}">'
    text = re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"(font:[^;\"]*?px )[^;\"]*", r"\1inherit", text)
    text = re.sub(r'\bid="', f'id="{prefix}-', text.replace("xlink:href", "href"))
    return Markup(re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", text))
