"""Certify a model against a threat."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from taut._sharding import gathers
from taut.certification import (
    Eps,
    above,
    as_eps_sequence,
    as_rational,
    check_labels,
    check_one_answer,
    check_top_k,
    checked_shape,
    hold_against_model,
    logit_margin,
    numbers_of,
    prove,
)
from taut.threats._base import AbstractThreat
from taut.threats._cut import cut_of
from taut.threats._result import ThreatCertification

__all__ = ["certify"]

_BATCH = 256


@gathers
def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: AbstractThreat,
    eps: Eps | Sequence[Eps] = (),
    *,
    top_k: int = 1,
    arithmetic: str = "float64",
    on_progress: Callable[[int], None] = lambda done: None,
) -> ThreatCertification:
    r"""Certify a classifier against a threat: certified accuracy, and a radius for each image.

    Guarantee: no change of the threat that is smaller than an image's radius moves the label out of
        the k highest logits of the certified program. That is the one of `taut.certify` for the
        same `arithmetic`, with its rounding counted.
    Cost: one forward pass for threats that are balls; for families with few parameters up to
        `cells` of them, in float64.

    Args:
        model: from images to logits; its mode is left as it is.
        images: what the model is fed, floating point in the model's precision.
        labels: true classes, int64.
        threat: what may change; one of `taut.threats`.
        eps: one size or several in the unit of the threat, compared exactly.
        top_k: k; 1 for the predicted class.
        arithmetic: "float64", "float32" or "real", as of `taut.certify`.
        on_progress: called with the number of images done.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) as `taut.certify` does.
        ValueError: if images, labels, eps, k or the threat's settings are wrong.

    Example:
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
        >>> labels = torch.tensor([0, 1])
        >>> found = certify(model, images, labels, taut.threats.Linf(), eps=("0.4", "0.5"))
        >>> found.certified_accuracy
        {'0.4': 1.0, '0.5': 0.0}
    """
    sizes, shape = as_eps_sequence(eps), checked_shape(model, images, arithmetic)
    check_labels(labels, len(images))
    threat.check(images, [float(as_rational(size)) for size in sizes])
    certificate = prove(model, shape, arithmetic=arithmetic)
    check_one_answer(certificate.output_shape)
    cut = cut_of(certificate)
    k = check_top_k(top_k, certificate.classes, name="top_k")
    radii_of = threat.prepared(cut, k)
    labels = numbers_of(labels.cpu(), certificate.output_shape)
    parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for some, classes in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        logits = certificate.logits(some).cpu()
        logit_margin(logits, classes)  # refuses labels that are no classes
        hold_against_model(model, some, logits)
        parts.append((logits, *radii_of(some, logits, classes)))
        on_progress(sum(len(part[0]) for part in parts))
    logits, radius = (torch.cat([part[i] for part in parts]) for i in (0, 1))  # pyright: ignore
    to_classes = [part[2] for part in parts if part[2] is not None]
    return ThreatCertification(
        threat=threat,
        proof=threat.proof(cut),
        top_k=k,
        clean_accuracy=_share(_ranks(logits, labels) < k),
        certified_accuracy={size: _share(above(radius, size)) for size in sizes},
        radius=radius,
        radii=torch.cat(to_classes) if to_classes else None,
        margin=logit_margin(logits, labels),
        predictions=logits.argmax(1),
        labels=labels,
        certificate=certificate,
    )


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the label; of equal ones the first, as argmax has it."""
    order = logits.double().argsort(dim=1, descending=True, stable=True)
    return (order == labels[:, None]).int().argmax(1)


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)
