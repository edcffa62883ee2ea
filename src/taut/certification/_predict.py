"""Predictions without labels, each with the radius within which it cannot change."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from taut._arguments import check_tensor
from taut._sharding import gathers
from taut.certification._arithmetic import norms_upper
from taut.certification._certificate import DTYPES, Certificate, image_sha256, prove
from taut.certification._changes import bound_changes
from taut.certification._eps import Eps, as_eps_sequence
from taut.certification._inputs import check_images, checked_shape, hold_against_model, like_of
from taut.certification._predictions import Predictions
from taut.certification._radius import (
    above,
    class_bound,
    executed_radii_to_classes,
    radii_to_classes,
)
from taut.linalg.rounding import next_up
from taut.program import LipschitzBound

__all__ = ["checked_factors", "predict", "predict_batches"]

_BATCH = 256
_ENTRIES = 1 << 24
"""Outputs that are computed at once, at most."""

_LEAST = 2.0**-40
"""Share of the largest weight that stands for a weight of 0, see `taut.certification._changes`."""


@gathers
def predict(
    model: nn.Module,
    images: Tensor,
    *,
    arithmetic: str = "float64",
    eps: Eps | Sequence[Eps] | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Predictions:
    r"""Predict the class of each image with its certified radius; no labels are needed.

    A radius r of an image x means: every x' with :math:`\|x' - x\|_2 \le r` gets the same class
    from the certified program, which is that of `taut.certify` for the same `arithmetic`. An entry
    of `radii` means the same of one other class: it does not overtake the predicted class.

    A model that gives one number f has two classes: 1 where f > 0, and 0 where not; the radius is
    :math:`|f| / L`, less the rounding error. A model that gives logits (classes, h, w), or of other
    places, has a class, a margin and a radius for each place; each place alone keeps its class
    within its radius, and all of them do within the least one.

    With `weights` w, a radius means: every x' with :math:`\sqrt{\sum_i ((x'_i - x_i) / w_i)^2} \le
    r`, and :math:`x'_i = x_i` where w_i = 0, gets the same class. With a `mask`, the pixels outside
    of it stay as they are.

    Args:
        model: from images to logits; its mode is left as it is.
        images: what the model is fed, floating point in the model's precision.
        arithmetic: "float64", "float32" or "real", as of `taut.certify`.
        eps: one l2 radius or several, at which `Predictions.certified` answers.
        mask: 1 for what may change and 0 for the rest, of the shape of one image or broadcast to
            it.
        weights: numbers >= 0, of the shape of one image or broadcast to it; with a mask, those
            within it count.
        on_progress: called with the number of images done.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) as `taut.certify` does.
        ValueError: if images, eps, mask or weights are wrong.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.eye(2))
        >>> found = predict(model, torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> found.classes, found.radius.round(decimals=4)
        (tensor([0, 1]), tensor([1.4142, 0.7071], dtype=torch.float64))
    """
    shape = checked_shape(model, images, arithmetic)
    options = {"arithmetic": arithmetic, "mask": mask, "weights": weights}
    return predict_batches(model, [images], shape, eps, on_progress=on_progress, **options)


@gathers
def predict_batches(
    model: nn.Module,
    batches: Iterable[Tensor],
    input_shape: tuple[int, ...],
    eps: Eps | Sequence[Eps] | None = None,
    *,
    arithmetic: str = "float64",
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Predictions:
    r"""As :func:`predict`, for images that come in batches.

    Args:
        model: from images to logits.
        batches: of images; only one at a time is in memory.
        input_shape: shape of one image.
        eps: as of `predict`.
        arithmetic: as of `predict`.
        mask: as of `predict`.
        weights: as of `predict`.
        on_progress: called with the number of images done.

    Raises:
        UnprovenError: as `predict` does.
        ValueError: as `predict` does, or if there is no batch.

    Example:
        >>> len(predict_batches(nn.Linear(3, 2), [torch.rand(2, 3)] * 3, (3,)).radius)
        6
    """
    values = () if eps is None else as_eps_sequence(eps)
    factors = _factors(mask, weights, input_shape, like_of(model, torch.zeros((), device="cpu")))
    certificate = prove(model, input_shape, arithmetic=arithmetic)
    changes = None if factors is None else bound_changes(certificate, factors.cpu())
    bound = certificate.bound if changes is None else changes.bound
    stretch = 1.0 if changes is None else changes.stretch
    size = max(1, min(_BATCH, _ENTRIES // math.prod(certificate.output_shape)))
    parts: list[tuple[Tensor, ...]] = []
    hashes: list[str] = []
    curved = certificate.curved is not None and changes is None
    for images in (part for batch in batches for part in batch.split(size)):
        check_images(images, input_shape, like_of(model, images), arithmetic)
        logits = certificate.logits(images).cpu()
        hold_against_model(model, images, logits)
        classes = logits.argmax(1)
        radii = _radii(certificate, logits, classes, images, bound, stretch)
        if curved:
            radii = torch.maximum(radii, certificate.curved_radii(logits, classes, images))
        parts.append((classes, _margin(logits), radii.amin(1), radii))
        hashes += [image_sha256(x) for x in images.cpu()]
        on_progress(len(hashes))
    if not parts:
        raise ValueError("`batches` must hold at least one image; got none.")
    classes, margin, radius, radii = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    certified = {value: above(radius, value) for value in values}
    kind = DTYPES[images.dtype]  # pyright: ignore[reportPossiblyUnboundVariable]
    return Predictions(
        classes, margin, radius, radii, bound, certified, certificate, changes, tuple(hashes), kind
    )


def _radii(
    certificate: Certificate,
    logits: Tensor,
    classes: Tensor,
    images: Tensor,
    bound: LipschitzBound,
    stretch: float,
) -> Tensor:
    bound = class_bound(bound, certificate.output_shape)
    if certificate.arithmetic == "real":
        return radii_to_classes(logits, classes, bound)
    norms = norms_upper(images.to("cpu"))
    return executed_radii_to_classes(logits, classes, norms, bound, certificate.composed, stretch)


def _margin(logits: Tensor) -> Tensor:
    """The largest logit minus the next one, in float64."""
    top = logits.double().topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def _factors(
    mask: Tensor | None, weights: Tensor | None, shape: tuple[int, ...], like: Tensor
) -> Tensor | None:
    """Weights in the precision of the model, not below those asked for, and positive."""
    if mask is None and weights is None:
        return None
    factors = torch.ones(shape, dtype=torch.float64, device="cpu")
    for name, value in (("mask", mask), ("weights", weights)):
        if value is not None:
            factors = factors * checked_factors(name, value, shape)
    most = factors.max()
    if most == 0:
        raise ValueError("`mask` and `weights` must let at least one entry change; got zeros.")
    if like.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"`mask` and `weights` need a float32 or float64 model; got {like.dtype}.")
    rounded = factors.clamp_min(float(most) * _LEAST).to(like.dtype)
    rounded = torch.where(rounded.double() < factors, next_up(rounded), rounded)
    if not (rounded.isfinite() & (rounded > 0)).all():
        raise ValueError(f"`weights` must be numbers that {like.dtype} holds; got {most:g}.")
    return rounded.to(like.device)


def checked_factors(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The `mask` or `weights` in float64, expanded to the shape of one image."""
    check_tensor(name, value)
    try:
        wide = value.detach().cpu().double().expand(shape)
    except RuntimeError:
        raise ValueError(
            f"`{name}` must have the shape of one image, {shape}, or be broadcast to it; got "
            f"{tuple(value.shape)}."
        ) from None
    allowed = (wide == 0) | (wide == 1) if name == "mask" else wide.isfinite() & (wide >= 0)
    if not allowed.all():
        must = "0 and 1 alone" if name == "mask" else "finite numbers >= 0"
        wrong = wide[~allowed].flatten()[0].item()
        raise ValueError(f"`{name}` must hold {must}; got {wrong:g}.")
    return wide
