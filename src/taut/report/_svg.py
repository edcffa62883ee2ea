"""A matplotlib figure as inline SVG that takes its colours and font from the page's style."""

import io
import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib wants plain colours. Each stands for a variable of the style sheet, put in its place
# in the SVG text, so that one chart serves light and dark pages.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
CERTIFIED, ATTACKED, CLEAN = "#040404", "#050505", "#060606"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    CERTIFIED: "var(--certified)",
    ATTACKED: "var(--attacked)",
    CLEAN: "var(--clean)",
}


def drawing() -> AbstractContextManager[None]:
    """Settings of matplotlib for one figure; those outside stay as they are.

    Example:
        >>> with drawing():
        ...     figure, axes = canvas("eps", "accuracy")
        >>> axes.get_xlabel()
        'eps'
    """
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "taut",
            "font.family": "sans-serif",
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": MUTED,
            "axes.edgecolor": LINE,
            "axes.linewidth": 0.8,
            "xtick.color": LINE,
            "ytick.color": LINE,
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED,
            "lines.linewidth": 1.8,
            "lines.solid_capstyle": "round",
        }
    )


def canvas(x_label: str, y_label: str, *, height: float = 3.1) -> tuple["Figure", "Axes"]:
    """Return an empty figure with labelled axes, inside `drawing()`.

    Example:
        >>> with drawing():
        ...     figure, axes = canvas("epoch", "loss")
        >>> axes.get_ylabel()
        'loss'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def inline(figure: "Figure", description: str, prefix: str) -> Markup:
    """Return the figure as an SVG element for use inside HTML.

    Args:
        figure: drawn inside `drawing()`.
        description: read out in place of the picture.
        prefix: keeps the ids of several figures on a page apart.

    Example:
        >>> with drawing():
        ...     figure, _ = canvas("eps", "accuracy")
        ...     inline(figure, "a <chart>", "a")[:48]
        Markup('<svg role="img" aria-label="a &lt;chart&gt;" vie')
    """
    buffer = io.StringIO()
    with drawing():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', text)
    opening = f'<svg role="img" aria-label="{escape(description)}" viewBox="{box and box[1]}">'
    text = re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"(font:[^;\"]*?px )[^;\"]*", r"\1inherit", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    return Markup(text)
