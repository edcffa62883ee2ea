"""Scores of a critic on two samples."""

from typing import TYPE_CHECKING

import torch

from taut.plot._style import ATTACKED, ATTACKED_LINE, CERTIFIED, CERTIFIED_LINE, styled_axes
from taut.wasserstein import Drift, W1Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def scores(result: Drift | W1Estimate, *, ax: "Axes | None" = None) -> "Axes":
    """Share of the held-out points below each score, for either sample.

    The area between the two curves, its sign counted, is the difference of the mean scores.

    Args:
        result: of :func:`taut.wasserstein.drift` or :func:`taut.wasserstein.estimate`.
        ax: axes to draw on; a new figure by default.

    Returns:
        The axes, with one curve a sample.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> x = torch.arange(40.0)[:, None]
        >>> settings = taut.wasserstein.DriftSettings(steps=0)
        >>> scores(taut.wasserstein.drift(x, x + 30, settings=settings)).get_xlabel()
        'score of the critic'
    """
    names = ("reference", "new") if isinstance(result, Drift) else ("p", "q")
    styles = ((CERTIFIED, CERTIFIED_LINE), (ATTACKED, ATTACKED_LINE))
    with styled_axes(ax) as axes:
        for values, name, (colour, line) in zip(result.scores, names, styles, strict=True):
            shares = torch.linspace(0, 1, len(values) + 1)
            edges = values.sort().values
            x, y = [float(edges[0]), *edges.tolist()], shares.tolist()
            axes.step(x, y, where="post", color=colour, linestyle=line, label=name)
        axes.set(xlabel="score of the critic", ylabel="share of the points below", ylim=(0, 1))
        axes.legend(frameon=False)
        axes.grid(axis="y")
    return axes
