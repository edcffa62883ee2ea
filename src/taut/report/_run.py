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
from taut.diagnostics import LayerDiagnostics, histogram
from taut.report._attack_lines import AttackLine
from taut.report._charts import accuracy_chart, gradient_chart, history_chart, loss_chart
from taut.report._robustness import Robustness
from taut.report._templates import write_page
from taut.report._thumbnails import data_uri, perturbation_uri

_CARDS = 12  # images shown one by one


@final
@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """The content of the page of a run.

    Attributes:
        title: name of the run.
        dataset: name of the data set.
        classes: names by label.
        eps: l2 radii as text.
        certification: certification of the test set.
        robustness: robustness of the test images that were attacked.
        attacks: results of earlier attacks (see :func:`attack_lines`); may be empty.
        layers: diagnostics of the layers.
        history: one row per epoch with `epoch`, `train_loss`, `clean_accuracy` and
            `certified_accuracy_EPS` for each eps; empty for a model that was not trained here.
        settings: settings of the training.
        commands: commands that make the run and this page.
        versions: versions of the software.
        judged_on: the images that accuracies in `history` are of: "test" or "validation".
    """

    title: str
    dataset: str
    classes: Sequence[str]
    eps: Sequence[str]
    certification: Certification
    robustness: Robustness
    attacks: Sequence[AttackLine]
    layers: Sequence[LayerDiagnostics]
    history: Sequence[Mapping[str, int | float]]
    settings: Mapping[str, object]
    commands: Sequence[str]
    versions: Mapping[str, str]
    judged_on: str = "test"


def write_report(path: str | os.PathLike[str], inputs: ReportInputs) -> Path:
    """Write the page of a run, atomically. Equal inputs give equal bytes.

    Args:
        path: the HTML file.
        inputs: the content.

    Returns:
        The path.

    Example:
        >>> write_report("report.html", inputs)  # doctest: +SKIP
    """
    eps, history = sorted(inputs.eps, key=Fraction), inputs.history
    are_images = inputs.robustness.images.ndim == 4  # vectors, signals and volumes have no picture
    return write_page(
        path,
        "run.html",
        run=inputs,
        playground=Path(path).with_name("play.html").is_file(),
        eps=eps,
        scale=_scale(eps[-1], inputs.robustness.images[0].numel()),
        layers=_layers(inputs),
        cards=_cards(inputs.robustness, inputs.classes) if are_images else [],
        broken=inputs.robustness.broken_certificates(),
        accuracy_chart=accuracy_chart(inputs.robustness, eps),
        gradient_chart=gradient_chart(inputs.layers),
        loss_chart=loss_chart(history) if history else None,
        history_chart=history_chart(history, eps, inputs.judged_on) if history else None,
    )


def _scale(eps: str, pixels: int) -> dict[str, float]:
    """What an eps means: the change of each pixel, or how many turn from black to white."""
    value = float(Fraction(eps))
    return {"flipped": value**2, "each": value / pixels**0.5, "pixels": pixels}


def _layers(inputs: ReportInputs) -> list[tuple[object, ...]]:
    """Each layer with its proof and the bars of its histogram."""
    proofs = {row.name: row for row in inputs.certification.bound.layers}
    return [(layer, proofs.get(layer.name), _bars(layer.spectrum)) for layer in inputs.layers]


def _bars(spectrum: Tensor | None) -> list[float]:
    """Heights from 0 to 1; a bin that is not empty is visible."""
    counts = [] if spectrum is None else histogram(spectrum)
    return [max(count / max(counts), 0.08) if count else 0.0 for count in counts]


def _cards(robustness: Robustness, classes: Sequence[str]) -> list[dict[str, object]]:
    """Images at even steps from the largest certified radius to the smallest."""
    order = torch.argsort(robustness.radius, stable=True, descending=True)
    steps = torch.linspace(0, len(order) - 1, min(_CARDS, len(order)), device="cpu").round().long()
    chosen = order[steps].tolist()
    ends = torch.cat([robustness.nearest[chosen], robustness.radius[chosen]])
    reach = max(ends[ends.isfinite()].tolist(), default=0.0) or 1.0
    return [_card(robustness, classes, i, reach) for i in chosen]


def _card(
    robustness: Robustness, classes: Sequence[str], i: int, reach: float
) -> dict[str, object]:
    """Pictures, names and numbers of one image; `reach` is the length of its bar."""
    image, adversarial = robustness.images[i], robustness.adversarial[i]
    nearest, radius = float(robustness.nearest[i]), float(robustness.radius[i])
    wrong = bool(robustness.predictions[i] != robustness.labels[i])
    return {
        "index": i,
        "label": _name(classes, robustness.labels[i]),
        "prediction": _name(classes, robustness.predictions[i]),
        "fooled": _name(classes, robustness.fooled[i]),
        "wrong": wrong,
        "attacked": nearest < float("inf") and not wrong,
        "radius": radius,
        "nearest": nearest,
        "proven_width": 100 * radius / reach,
        "gap_width": 100 * (min(nearest, reach) - radius) / reach,
        "image": data_uri(image),
        "perturbation": perturbation_uri(adversarial - image),
        "adversarial": data_uri(adversarial),
    }


def _name(classes: Sequence[str], label: Tensor) -> str:
    index = int(label)
    return classes[index] if index < len(classes) else str(index)
