"""Certify a model on a set of images."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from taut.certification._radius import above, as_rational, certified_radius, logit_margin
from taut.lipschitz import LipschitzBound, lipschitz_bound
from taut.parametrizations import cached

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Certification", "certify"]

_BATCH = 256
Eps = float | str | Fraction


@final
@dataclass(frozen=True, eq=False)
class Certification:
    """What is proven about a model on a set of images.

    Attributes:
        clean_accuracy: share of the images whose largest logit is the label's.
        certified_accuracy: for each eps as it was given, the share with radius > eps.
        radius: certified l2 radius of each image, in its units; 0 where wrong or tied.
        margin: logit of the label minus the largest other one, of each image.
        predictions: class with the largest logit, of each image (the first of equal ones).
        bound: the model's Lipschitz bound.

    Example:
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
        >>> result = certify(model, images, torch.tensor([0, 1]), eps=("1/2", 0.75))
        >>> result.certified_accuracy
        {'1/2': 1.0, 0.75: 0.0}
    """

    clean_accuracy: float
    certified_accuracy: dict[Eps, float]
    radius: Tensor
    margin: Tensor
    predictions: Tensor
    bound: LipschitzBound

    def to_json(self) -> str:
        """Everything but the tensors of the bound, with sorted keys: equal results, equal text."""
        finite = [m if math.isfinite(m) else None for m in self.margin.tolist()]
        content = {
            "bound": self.bound.value,
            "certified_accuracy": {str(eps): a for eps, a in self.certified_accuracy.items()},
            "clean_accuracy": self.clean_accuracy,
            "layers": [asdict(row) for row in self.bound.layers],
            "margin": finite,
            "predictions": self.predictions.tolist(),
            "radius": self.radius.tolist(),
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def plot(self) -> "Figure":
        """A figure of the certified accuracy over eps."""
        from matplotlib.figure import Figure

        radii = self.radius[self.radius > 0].sort().values.cpu()
        total = len(self.radius)
        shares = torch.arange(len(radii), -1, -1) / total  # share with radius > eps
        edges = torch.cat([torch.zeros(1, dtype=radii.dtype), radii])
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.step(edges, shares, where="post", label="certified")
        axes.axhline(self.clean_accuracy, linestyle=":", color="gray", label="clean")
        axes.set(xlabel="eps (l2)", ylabel="accuracy", ylim=(0, 1))
        axes.set_xlim(left=0)
        axes.legend()
        return figure


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: Sequence[Eps] = ("36/255", "72/255", "108/255"),
    input_shape: tuple[int, ...] | None = None,
) -> Certification:
    r"""Certified accuracy of a classifier: how many points no perturbation up to eps can change.

    The model's Lipschitz bound is proven from its weights, its logits are computed in batches, and
    each point gets its certified radius (see `certified_radius`). The mode of the model is left as
    it is; what behaves otherwise in training is refused there.

    Args:
        model: from images to logits.
        images: what the model is fed, floating point in the model's precision; eps is in its units.
        labels: true classes, int64.
        eps: l2 radii as floats, fractions or strings such as "36/255", compared exactly.
        input_shape: shape of one image, if it should be checked; the default is the images' own.

    Returns:
        The accuracies, and margin and radius of each image.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if the model has no proven bound, or
            is in training mode where that matters.
        ValueError: if images, labels, eps or shapes are wrong.

    Example:
        >>> certify(nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4).long()).radius.shape
        torch.Size([4])
    """
    for value in eps:
        as_rational(value)
    shape = tuple(images.shape[1:]) if input_shape is None else tuple(input_shape)
    like = next(iter(model.parameters()), images)
    _check(images, labels, shape, like)
    with torch.no_grad(), cached():
        bound = lipschitz_bound(model, shape)
        logits = torch.cat([model(batch.to(like.device)) for batch in images.split(_BATCH)])
    logits, labels = logits.cpu(), labels.cpu()
    radius = certified_radius(logits, labels, bound)
    return Certification(
        clean_accuracy=_share(logits.argmax(1) == labels),
        certified_accuracy={value: _share(above(radius, value)) for value in eps},
        radius=radius,
        margin=logit_margin(logits, labels),
        predictions=logits.argmax(1),
        bound=bound,
    )


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)


def _check(images: Tensor, labels: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if not images.dtype == like.dtype or not images.is_floating_point():
        raise ValueError(
            f"`images` must be {like.dtype} like the model, in the units it was trained on; got "
            f"{images.dtype}."
        )
    if tuple(images.shape[1:]) != shape:
        raise ValueError(f"`images` must be (n, *{shape}); got {tuple(images.shape)}.")
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image; got none.")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"`labels` must be {len(images)} int64 classes, one per image; got "
            f"{tuple(labels.shape)} of {labels.dtype}."
        )
    bad = (~images.flatten(1).isfinite().all(1)).nonzero()
    if len(bad):
        raise ValueError(f"`images` must be finite; image {int(bad[0])} holds NaN or Inf.")
