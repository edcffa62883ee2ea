"""Check what a certificate says of images: what fits together, as the images are not here."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from taut.certification._radius import above

__all__ = ["Limit", "check_answers", "check_images", "floats", "numbers"]

Limit = Callable[[Tensor, Tensor], Tensor]
"""From margins and labels to what no radius exceeds."""


def floats(values: Any, what: str) -> list[float]:
    """A list of numbers as certificates write them: no whole ones, no texts, no truth values."""
    if not (isinstance(values, list) and all(type(value) is float for value in values)):
        raise ValueError(f"The {what} must be a list of numbers.")
    return values


def numbers(values: Any, what: str, *, kind: type = float, own: float | None = None) -> Tensor:
    """Nested lists of numbers as a tensor, with a number for each null if one is given."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(part) for part in value]
        if value is None and own is not None:
            return own
        if type(value) is not kind:
            raise ValueError(f"The {what} must be numbers in lists.")
        return value

    return torch.tensor(
        plain(values), dtype=torch.float64 if kind is float else torch.int64, device="cpu"
    )


def check_images(file: dict[str, Any], shape: tuple[int, ...], curved: Limit | None = None) -> None:
    """Refuse what does not fit together: accuracies, radii, labels, predictions and margins.

    Args:
        file: the certificate.
        shape: of the outputs.
        curved: what radii by curvature do not exceed.
    """
    radii, n = floats(file["radius"], "radii"), len(file["radius"])
    labels, predictions, hashes = file["labels"], file["predictions"], file["images"]["sha256"]
    lists = (labels, predictions, file["margin"], hashes)
    if not n or len(shape) > 1 or any(len(values) != n for values in lists):
        raise ValueError("The file must say the same of every image, and have one at least.")
    single = math.prod(shape) == 1
    classes = max((2, *shape))
    if not all(type(v) is int and 0 <= v < classes for v in (*labels, *predictions)):
        raise ValueError(f"Labels and predictions must be below {classes}.")
    _check_description(file["images"])
    right = [a == b for a, b in zip(predictions, labels, strict=True)]
    limits = [0.0] * n
    if curved is not None:
        known = [m or 0.0 for m in file["margin"]]
        margins = torch.tensor(known, dtype=torch.float64, device="cpu")
        limits = curved(margins.clamp(min=0), torch.tensor(labels, device="cpu")).tolist()
    for values in zip(radii, file["margin"], labels, right, limits, strict=True):
        _check_image(file, *values, single=single)
    radius = torch.tensor(radii, dtype=torch.float64, device="cpu")
    shares = {"clean accuracy": (file["clean_accuracy"], sum(right))}
    for eps, said in file["certified_accuracy"].items():
        shares[f"certified accuracy at {eps}"] = said, int(above(radius, eps).sum())
    for name, (said, count) in shares.items():
        if type(said) is not float or said != count / n:
            raise ValueError(f"The {name} does not match the images.")


def _check_description(images: dict[str, Any]) -> None:
    if images.keys() != {"dtype", "sha256"} or not all(
        isinstance(h, str) for h in images["sha256"]
    ):
        raise ValueError("The images must be described by their precision and hashes.")


def _check_image(
    file: dict[str, Any],
    radius: float,
    margin: float | None,
    label: int,
    right: bool,
    limit: float,
    *,
    single: bool,
) -> None:
    r"""Refuse a radius above what its margin m leaves.

    It is at most :math:`(m - 4 b) / (L + a)` for the class that the margin is to, and so for the
    least constant L, that of the output itself where it is a single one; or at most the limit by
    curvature. The margin was rounded once.
    """
    if radius < 0 or not (margin is None or type(margin) is float):
        raise ValueError("A radius or a margin is not a valid number.")
    if margin is not None and (margin > 0) > right:
        raise ValueError("A margin is above 0 although the prediction is wrong.")
    if radius == 0:
        return
    if margin is None or not right:
        raise ValueError("A radius is above 0 although the prediction is wrong.")
    if radius <= limit:
        return
    a, b = map(Fraction, file["error"] or (0.0, 0.0))
    least = Fraction(1 if single else math.sqrt(2)) * Fraction(file["bound"])
    if file["pairwise"] is not None and not single:
        least = min(Fraction(v) for j, v in enumerate(file["pairwise"][label]) if j != label)
    room = Fraction(margin) * (1 + Fraction(1, 2**50)) - 4 * b
    if Fraction(radius) * (least + a) > room or radius > (file["norm_limit"] or math.inf):
        raise ValueError("A radius is larger than its margin allows.")


def check_answers(
    file: dict[str, Any], shape: tuple[int, ...], stretch: float, curved: Limit | None = None
) -> None:
    """Refuse classes, margins and radii of predictions that do not fit together."""
    radii = numbers(file["radii"], "radii", own=math.inf)
    margin = numbers(file["margin"], "margins", own=-math.inf)
    classes = numbers(file["classes"], "classes", kind=int)
    hashes, k, places = file["images"]["sha256"], max((2, *shape[:1])), shape[1:]
    n = len(hashes)
    shapes = [tuple(part.shape) for part in (classes, margin, radii)]
    if not n or shapes != [(n, *places), (n, *places), (n, k, *places)]:
        raise ValueError("The file must say the same of every image, and have one at least.")
    _check_description(file["images"])
    if not bool(((classes >= 0) & (classes < k)).all()):
        raise ValueError(f"Classes must be below {k}.")
    own = torch.zeros_like(radii).scatter(1, classes[:, None], 1.0).bool()
    if not bool((radii.isinf() == own).all() and (radii >= 0).all()):
        raise ValueError("A radius must be a number >= 0, and null for the class itself.")
    least = radii.amin(1)
    bounds, single = file.get("changes", file), shape[:1] in ((), (1,))
    slopes = torch.full_like(least, bounds["bound"] * (1 if single else math.sqrt(2)))
    if bounds["pairwise"] is not None and not single:
        pairs = numbers(bounds["pairwise"], "constants of pairs")
        slopes = pairs.fill_diagonal_(math.inf).amin(1)[classes]
    a, b = file["error"] or (0.0, 0.0)
    room = margin * (1 + 2.0**-40) - 4 * b
    limit = math.inf if file["norm_limit"] is None else file["norm_limit"]
    above = (least * (slopes + a * stretch) > room) | (least * stretch > limit)
    if curved is not None:
        above &= least > curved(margin.clamp(min=0), classes)
    if bool((above & (least > 0)).any()):
        raise ValueError("A radius is larger than its margin allows.")
