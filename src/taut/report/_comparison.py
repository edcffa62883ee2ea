"""The HTML page that compares runs: one file that needs no network."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, final

import torch
from markupsafe import Markup

from taut.diagnostics import GradientProfile
from taut.report._charts import column, reach_of, share_beyond, whole_epochs
from taut.report._names import name_curves
from taut.report._robustness import Robustness
from taut.report._svg import SERIES, chart, inline
from taut.report._templates import write_page

_STYLES = ("-", (0, (5, 1.6)), (0, (1, 1.6)), (0, (7, 1.6, 1, 1.6)))
MOST = len(SERIES) * len(_STYLES) // 2
"""Runs that one page compares at most, each with a colour and a line style of its own."""


@final
@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name: of the run.
        robustness: robustness on the images that all runs share.
        history: one row per epoch, as of a :class:`ReportInputs`.
        judged_on: the images that accuracies in `history` are of: "test" or "validation".
        profile: gradient norm by depth.
        bound: proven Lipschitz bound.
    """

    name: str
    robustness: Robustness
    history: Sequence[Mapping[str, int | float]]
    judged_on: str
    profile: GradientProfile
    bound: float


def write_comparison(
    path: str | os.PathLike[str],
    runs: Sequence[ComparedRun],
    *,
    dataset: str,
    eps: Sequence[str],
    command: str,
) -> Path:
    """Write the page that compares runs on the same images, atomically.

    Args:
        path: the HTML file.
        runs: at least two, with names that differ.
        dataset: name of the data set.
        eps: l2 radii as text.
        command: command that makes the page.

    Returns:
        The path.

    Raises:
        ValueError: if there are too few or too many runs, or the images are not the same.

    Example:
        >>> write_comparison("comparison.html", [], dataset="", eps=("0.3",), command="")
        Traceback (most recent call last):
        ValueError: `runs` must hold 2 to 12 runs; got 0.
    """
    if not 2 <= len(runs) <= MOST:
        raise ValueError(f"`runs` must hold 2 to {MOST} runs; got {len(runs)}.")
    first = runs[0].robustness.images
    if not all(torch.equal(run.robustness.images, first) for run in runs):
        raise ValueError("`runs` must be measured on the same images; they are not.")
    eps = sorted(eps, key=Fraction)
    return write_page(
        path,
        "comparison.html",
        runs=runs,
        dataset=dataset,
        eps=eps,
        command=command,
        images=len(first),
        judged_on=_judged_on({run.name: run.judged_on for run in runs}),
        radius_chart=_radius_chart(runs, eps),
        history_chart=_history_chart(runs, eps[0]),
        gradient_chart=_gradient_chart(runs),
    )


def _judged_on(kinds: Mapping[str, str]) -> str:
    """The images that accuracies in training are of, from the kind of each run."""
    if len(set(kinds.values())) == 1:
        return f"{next(iter(kinds.values()))} images"
    return ", ".join(f"{kind} images for {name}" for name, kind in kinds.items())


def _styles(count: int) -> list[dict[str, Any]]:
    """A colour and a line style for each run; neighbours differ in both."""
    return [
        {"color": SERIES[i % len(SERIES)], "linestyle": _STYLES[i % len(_STYLES)]}
        for i in range(count)
    ]


def _radius_chart(runs: Sequence[ComparedRun], eps: Sequence[str]) -> Markup:
    """Certified accuracy over eps, one curve a run."""
    reach = max(reach_of(run.robustness.radius, eps) for run in runs)
    grid = torch.linspace(0, reach, 300, dtype=torch.float64, device="cpu")
    with chart("eps: l2 norm of the perturbation", "certified accuracy in %") as (figure, axes):
        curves = {}
        for run, style in zip(runs, _styles(len(runs)), strict=True):
            (curves[run.name],) = axes.plot(
                grid, share_beyond(run.robustness.radius, grid), **style
            )
        axes.set(xlim=(0, reach), ylim=(0, 100))
        name_curves(axes, curves)
        names = ", ".join(run.name for run in runs)
        return inline(figure, f"Certified accuracy over eps of {names}.", "radius")


def _history_chart(runs: Sequence[ComparedRun], eps: str) -> Markup | None:
    """Certified accuracy over epochs, one curve a run."""
    if not any(run.history for run in runs):
        return None
    with chart("epoch", f"certified at {eps} in %") as (figure, axes):
        curves = {}
        for run, style in zip(runs, _styles(len(runs)), strict=True):
            if run.history:
                values = [100 * share for share in column(run.history, f"certified_accuracy_{eps}")]
                (curves[run.name],) = axes.plot(column(run.history, "epoch"), values, **style)
        axes.set_ylim(0, 100)
        whole_epochs(axes)
        name_curves(axes, curves)
        return inline(figure, f"Certified accuracy at {eps} over epochs.", "history")


def _gradient_chart(runs: Sequence[ComparedRun]) -> Markup:
    """Gradient norm from the image on the left to the output on the right, one curve a run."""
    with chart("depth, image to output", "relative gradient norm") as (figure, axes):
        curves = {}
        for run, style in zip(runs, _styles(len(runs)), strict=True):
            norms = run.profile.gradient
            depth = [i / max(len(norms) - 1, 1) for i in range(len(norms))]
            (curves[run.name],) = axes.plot(depth, norms, **style)
        axes.set_ylim(bottom=0)
        axes.set_xticks([0, 1], ["image", "output"])
        name_curves(axes, curves)
        return inline(figure, "Gradient norm by depth of each run.", "gradient")
