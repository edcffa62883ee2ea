"""Figures of what taut measures: functions that take its results and return matplotlib axes.

Each draws on the axes given as `ax`, or on a new figure; `axes.figure.savefig("a.png")` writes it.
Nothing is shown, and matplotlib's global settings stay as they are. matplotlib is part of the extra
`cli`, and imported when a figure is drawn.
"""

from taut.plot._gallery import change_shown, gallery, shown
from taut.plot._gradient_norm import brief, draw_along, gradient_norm
from taut.plot._inspection import inspection
from taut.plot._profiles import profiles
from taut.plot._radius_curve import radius_curve, steps_below
from taut.plot._scores import scores
from taut.plot._slice import slice
from taut.plot._spectrum import spectrum
from taut.plot._style import (
    ATTACKED_LINE,
    CERTIFIED_LINE,
    CLEAN_LINE,
    COLOURS,
    plot_style,
    spread,
)

__all__ = [
    "ATTACKED_LINE",
    "CERTIFIED_LINE",
    "CLEAN_LINE",
    "COLOURS",
    "brief",
    "change_shown",
    "draw_along",
    "gallery",
    "gradient_norm",
    "inspection",
    "plot_style",
    "profiles",
    "radius_curve",
    "scores",
    "shown",
    "slice",
    "spectrum",
    "spread",
    "steps_below",
]
