"""The HTML page of a run: one file that needs no network."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from taut.certification import Certification
from taut.files import write_atomically
from taut.report._html import template
from taut.report.attacked import AttackLine
from taut.report.charts import accuracy_chart, gradient_chart, history_chart, loss_chart
from taut.report.inspection import LayerInspection
from taut.report.robustness import Robustness
from taut.report.thumbnails import data_uri, perturbation_uri

CARDS = 12
"""Images shown one by one."""


@final
@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything a report shows, as plain values.

    Attributes:
        title: name of the run.
        dataset: its name as it should be read.
        classes: names by label.
        eps: l2 radii as text.
        certification: of the test set.
        robustness: of the test images that were attacked.
        attacks: kept beside the run, as `attack_lines` tells of them; may be empty.
        layers: as inspected.
        history: one row an epoch with `epoch`, `train_loss`, `clean_accuracy` and
            `certified_accuracy_EPS` for each eps; empty for a model without a past.
        settings: of the training, shown as they are.
        commands: that make the run and this page again.
        versions: of the software.
    """

    title: str
    dataset: str
    classes: Sequence[str]
    eps: Sequence[str]
    certification: Certification
    robustness: Robustness
    attacks: Sequence[AttackLine]
    layers: Sequence[LayerInspection]
    history: Sequence[Mapping[str, int | float]]
    settings: Mapping[str, object]
    commands: Sequence[str]
    versions: Mapping[str, str]


def write_report(path: str | os.PathLike[str], inputs: ReportInputs) -> Path:
    """Write the page of a run, whole or not at all.

    Args:
        path: of the HTML file.
        inputs: what it shows.

    Returns:
        The path.

    Example:
        >>> write_report("report.html", inputs)  # doctest: +SKIP
    """
    target = Path(path)
    write_atomically(target, render(inputs).encode())
    return target


def render(inputs: ReportInputs) -> str:
    """Return the page as text.

    Example:
        >>> "<h1>" in render(inputs)  # doctest: +SKIP
        True
    """
    page = template(
        "page.html",
        percent=lambda share: f"{100 * share:.1f}",
        sigma=lambda value: f"{value:.7f}",
    )
    history = inputs.history
    return page.render(
        run=inputs,
        found=inputs.robustness,
        clean=inputs.certification.clean_accuracy,
        bound=inputs.certification.bound,
        arithmetic=inputs.certification.arithmetic,
        meaning=inputs.certification.certificate.meaning,
        whole=len(inputs.certification.radius),
        some=len(inputs.robustness.labels),
        rows=_rows(inputs),
        scale=_scale(inputs),
        layers=_layers(inputs),
        cards=_cards(inputs.robustness, inputs.classes),
        broken=inputs.robustness.broken_certificates(),
        accuracy_chart=accuracy_chart(inputs.robustness, inputs.eps),
        gradient_chart=gradient_chart(inputs.layers),
        loss_chart=loss_chart(history) if history else None,
        history_chart=history_chart(history, inputs.eps) if history else None,
    )


def _rows(inputs: ReportInputs) -> list[dict[str, object]]:
    """One row an eps, in rising order."""
    found, proved = inputs.robustness, inputs.certification.certified_accuracy
    return [
        {
            "eps": eps,
            "proved": proved[eps],
            "certified": found.certified(eps),
            "attacked": found.attacked[eps],
        }
        for eps in sorted(inputs.eps, key=Fraction)
    ]


def _scale(inputs: ReportInputs) -> dict[str, object]:
    """What the largest eps means, in pixels."""
    largest = max(inputs.eps, key=Fraction)
    value, pixels = float(Fraction(largest)), inputs.robustness.images[0].numel()
    return {"eps": largest, "flipped": value**2, "each": value / pixels**0.5, "pixels": pixels}


def _layers(inputs: ReportInputs) -> list[dict[str, object]]:
    """Rows of the layer table: the proof of each layer beside what was measured on it."""
    proofs = {row.name: row for row in inputs.certification.bound.layers}
    return [
        {
            "measured": layer,
            "proof": proofs.get(layer.name),
            "bars": _bars(layer.histogram()),
            "low": None if layer.spectrum is None else float(layer.spectrum.min()),
            "high": None if layer.spectrum is None else float(layer.spectrum.max()),
        }
        for layer in inputs.layers
    ]


def _bars(counts: list[int]) -> list[float]:
    """Heights from 0 to 1; the smallest that is not empty stays visible."""
    most = max(counts, default=0)
    return [max(count / most, 0.08) if count else 0.0 for count in counts]


def _cards(found: Robustness, classes: Sequence[str]) -> list[dict[str, object]]:
    """Images at even steps from the least to the most certain, with their nearest attack."""
    order = torch.argsort(found.radius.cpu(), stable=True, descending=True)
    count = min(CARDS, len(order))
    chosen = order[torch.linspace(0, len(order) - 1, count).round().long()].tolist()
    ends = torch.cat([found.nearest[chosen], found.radius[chosen]])
    reach = max(ends[ends.isfinite()].tolist(), default=0.0) or 1.0
    return [_card(found, classes, i, reach) for i in chosen]


def _card(found: Robustness, classes: Sequence[str], i: int, reach: float) -> dict[str, object]:
    """Pictures, names and numbers of one image."""
    image, adversarial = found.images[i], found.adversarial[i]
    nearest, radius = float(found.nearest[i]), float(found.radius[i])
    attacked = nearest < float("inf")
    wrong = bool(found.predictions[i] != found.labels[i])
    return {
        "index": i,
        "label": _name(classes, found.labels[i]),
        "prediction": _name(classes, found.predictions[i]),
        "fooled": _name(classes, found.fooled[i]),
        "wrong": wrong,
        "attacked": attacked and not wrong,
        "radius": radius,
        "nearest": nearest,
        "proved_width": 100 * radius / reach,
        "gap_width": 100 * (min(nearest, reach) - radius) / reach,
        "image": data_uri(image),
        "perturbation": perturbation_uri(adversarial - image),
        "adversarial": data_uri(adversarial),
    }


def _name(classes: Sequence[str], label: Tensor) -> str:
    index = int(label)
    return classes[index] if index < len(classes) else str(index)
