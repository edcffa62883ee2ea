"""The HTML page of a Wasserstein-1 estimate: one file that needs no network."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from taut.files import write_atomically
from taut.parametrizations import cached
from taut.report._html import source, template
from taut.report._svg import ATTACKED, CERTIFIED, canvas, drawing, inline
from taut.report.thumbnails import data_uri
from taut.wasserstein import W1Estimate, W1Progress

_LONGEST = 28  # letters of a name in a legend
SHOWN = 8
"""Samples shown of each side, at either end of the critic's scores."""


@final
@dataclass(frozen=True, kw_only=True)
class DistanceInputs:
    """Everything the page shows.

    Attributes:
        names: of the two samples.
        points: of the two samples.
        found: the estimate.
        settings: of the estimate, shown as they are.
        command: that makes the page again.
        versions: of the software.
    """

    names: tuple[str, str]
    points: tuple[Float[Tensor, "n *shape"], Float[Tensor, "m *shape"]]
    found: W1Estimate
    settings: Mapping[str, object]
    command: str
    versions: Mapping[str, str]


def write_distance_report(path: str | os.PathLike[str], inputs: DistanceInputs) -> Path:
    """Write the page of an estimate, whole or not at all.

    Args:
        path: of the HTML file.
        inputs: what it shows.

    Returns:
        The path.

    Example:
        >>> write_distance_report("distance.html", inputs)  # doctest: +SKIP
    """
    page, found = source("page.html"), inputs.found
    text = template("distance.html", short=lambda value: f"{value:.4g}").render(
        run=inputs,
        found=found,
        style=Markup(page[page.index("<style>") : page.index("</style>")] + "</style>"),
        score_chart=score_chart(found, inputs.names),
        convergence_chart=convergence_chart(found.history) if found.history else None,
        rankings=_rankings(inputs),
    )
    target = Path(path)
    write_atomically(target, text.encode())
    return target


def score_chart(found: W1Estimate, names: tuple[str, str]) -> Markup:
    """Histograms of the critic's scores of both samples, over the proved bound.

    Args:
        found: the estimate.
        names: of the samples.

    Example:
        >>> from taut.wasserstein import Settings, estimate
        >>> x = torch.arange(8.0)[:, None]
        >>> found = estimate(x, x + 3, settings=Settings(steps=0))
        >>> "score" in score_chart(found, ("a", "b"))
        True
    """
    divisor = float(found.bound) or 1.0
    sides = [(scores / divisor).numpy() for scores in found.scores]
    ends = min(map(min, sides)), max(map(max, sides))
    span = ends if ends[1] > ends[0] else (ends[0] - 0.5, ends[0] + 0.5)
    with drawing():
        figure, axes = canvas("score over proved bound", "held-out points")
        for side, name, colour in zip(sides, names, (CERTIFIED, ATTACKED), strict=True):
            axes.hist(side, bins=40, range=span, color=colour, alpha=0.55, label=_brief(name))
            axes.axvline(float(side.mean()), color=colour)
        axes.legend(frameon=False)
    means = [float(side.mean()) for side in sides]
    text = f"Histograms of scores; the means are {means[0]:.4g} and {means[1]:.4g}."
    return inline(figure, text, "scores")


def _brief(name: str) -> str:
    """The end of a long path, which tells it from others, so that the chart keeps its room."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def convergence_chart(history: Sequence[W1Progress]) -> Markup:
    """Both sides over the steps of the critic.

    Args:
        history: of an estimate; at least one row.

    Example:
        >>> "plan" in convergence_chart([W1Progress(0, 10, 1.0, 2.0), W1Progress(10, 10, 1.5, 2.0)])
        True
    """
    steps = [row.step for row in history]
    with drawing():
        figure, axes = canvas("steps of the critic", "distance")
        lower, upper = [row.lower for row in history], [row.upper for row in history]
        axes.fill_between(steps, lower, upper, color=CERTIFIED, alpha=0.1, linewidth=0)
        axes.plot(steps, upper, color=ATTACKED, marker="o", ms=3, label="plan, from above")
        axes.plot(steps, lower, color=CERTIFIED, marker="o", ms=3, label="critic, from below")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    text = f"From {lower[0]:.4g} and {upper[0]:.4g} to {lower[-1]:.4g} and {upper[-1]:.4g}."
    return inline(figure, text, "convergence")


@torch.no_grad()
def _rankings(inputs: DistanceInputs) -> list[dict[str, object]]:
    """The samples of each side that the critic ranks highest and lowest, where they are images."""
    if inputs.points[0].ndim != 4:
        return []
    critic, divisor = inputs.found.critic, float(inputs.found.bound) or 1.0
    tensor = next(chain(critic.parameters(), critic.buffers()))
    rows: list[dict[str, object]] = []
    for name, points in zip(inputs.names, inputs.points, strict=True):
        with cached():
            parts = [critic(part.to(tensor)).flatten() for part in points.split(256)]
        scores = torch.cat(parts).cpu() / divisor
        order = scores.argsort(descending=True).tolist()
        for place, chosen in (("highest", order[:SHOWN]), ("lowest", order[::-1][:SHOWN])):
            cards = [{"image": data_uri(points[i]), "score": float(scores[i])} for i in chosen]
            rows.append({"title": f"{name}: ranked {place}", "cards": cards})
    return rows
