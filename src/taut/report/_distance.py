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

from taut.parametrizations import cached
from taut.plot import brief
from taut.report._names import name_curves
from taut.report._svg import ATTACKED, CERTIFIED, chart, inline
from taut.report._templates import write_page
from taut.report._thumbnails import data_uri
from taut.wasserstein import W1Estimate, W1Progress

_SHOWN = 8  # samples at either end of the critic's scores
_BATCH = 256


@final
@dataclass(frozen=True, kw_only=True)
class DistanceInputs:
    """The content of the page of a distance.

    Attributes:
        names: names of the two samples.
        points: the two samples.
        estimate: the estimate.
        settings: settings of the estimate.
        command: command that makes the page.
        versions: versions of the software.
    """

    names: tuple[str, str]
    points: tuple[Float[Tensor, "n *shape"], Float[Tensor, "m *shape"]]
    estimate: W1Estimate
    settings: Mapping[str, object]
    command: str
    versions: Mapping[str, str]


def write_distance_report(path: str | os.PathLike[str], inputs: DistanceInputs) -> Path:
    """Write the page of a distance, atomically. Equal inputs give equal bytes.

    Args:
        path: the HTML file.
        inputs: the content.

    Returns:
        The path.

    Example:
        >>> write_distance_report("distance.html", inputs)  # doctest: +SKIP
    """
    history = inputs.estimate.history
    return write_page(
        path,
        "distance.html",
        run=inputs,
        score_chart=_score_chart(inputs.estimate, inputs.names),
        convergence_chart=_convergence_chart(history) if history else None,
        rankings=_rankings(inputs),
    )


def _score_chart(estimate: W1Estimate, names: tuple[str, str]) -> Markup:
    """Histograms of the critic's scores of both samples, divided by the proven bound."""
    divisor = float(estimate.bound) or 1.0
    sides = [(scores / divisor).numpy() for scores in estimate.scores]
    least, most = min(map(min, sides)), max(map(max, sides))
    span = (least, most) if most > least else (least - 0.5, least + 0.5)
    with chart("score over proven bound", "held-out points") as (figure, axes):
        for side, name, colour in zip(sides, names, (CERTIFIED, ATTACKED), strict=True):
            axes.hist(side, bins=40, range=span, color=colour, alpha=0.55, label=brief(name, 28))
            axes.axvline(float(side.mean()), color=colour)
        axes.legend(frameon=False)
        means = [float(side.mean()) for side in sides]
        text = f"Histograms of scores; the means are {means[0]:.4g} and {means[1]:.4g}."
        return inline(figure, text, "scores")


def _convergence_chart(history: Sequence[W1Progress]) -> Markup:
    """Both bounds over the steps of the critic."""
    steps = [row.step for row in history]
    lower, upper = [row.lower for row in history], [row.upper for row in history]
    with chart("training steps of the critic", "distance") as (figure, axes):
        axes.fill_between(steps, lower, upper, color=CERTIFIED, alpha=0.1, linewidth=0)
        (plan,) = axes.plot(steps, upper, color=ATTACKED, marker="o", ms=3)
        (critic,) = axes.plot(steps, lower, color=CERTIFIED, marker="o", ms=3)
        axes.set_ylim(bottom=0)
        name_curves(axes, {"plan, upper bound": plan, "critic, lower bound": critic})
        text = f"From {lower[0]:.4g} and {upper[0]:.4g} to {lower[-1]:.4g} and {upper[-1]:.4g}."
        return inline(figure, text, "convergence")


@torch.no_grad()
def _rankings(inputs: DistanceInputs) -> list[dict[str, object]]:
    """The images of each sample that the critic ranks highest and lowest."""
    if inputs.points[0].ndim != 4:
        return []
    critic, divisor = inputs.estimate.critic, float(inputs.estimate.bound) or 1.0
    tensor = next(chain(critic.parameters(), critic.buffers()))
    rankings: list[dict[str, object]] = []
    for name, points in zip(inputs.names, inputs.points, strict=True):
        with cached():
            parts = [critic(part.to(tensor)).flatten() for part in points.split(_BATCH)]
        scores = torch.cat(parts).cpu() / divisor
        order = scores.argsort(descending=True).tolist()
        for end, chosen in (("highest", order[:_SHOWN]), ("lowest", order[::-1][:_SHOWN])):
            cards = [{"image": data_uri(points[i]), "score": float(scores[i])} for i in chosen]
            rankings.append({"title": f"{name}: ranked {end}", "cards": cards})
    return rankings
