"""Detectors of normal samples: trained networks, and distances to neighbours."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_tensor, not_negative, positive, unit_share, whole
from taut.anomaly._detector import Detector
from taut.anomaly._neighbours import Neighbours
from taut.anomaly._outliers import IMAGES, OUTLIERS, VECTORS, pushed
from taut.certification import prove
from taut.losses import HingeKR
from taut.nn import Conv2d, Linear, MaxMin, Times
from taut.parametrizations import projected
from taut.wasserstein import critics

__all__ = ["Settings", "fit", "neighbours"]

Samples = Float[Tensor, "n *shape"]
_SIDE = 8
"""Pictures with shorter sides are treated as vectors."""


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of one-class training.

    Args:
        steps: of Adam.
        batch_size: normal samples a step, and as many outliers.
        lr: peak learning rate; it falls to 0 along half a cosine.
        margin: of the hinge, in units of the samples; None is a quarter of the median distance
            from a sample to its nearest other one.
        alpha: weight of the hinge.
        outliers: names in `OUTLIERS`, equally often; None takes `IMAGES` for images and `VECTORS`
            for all else.
        newton: steps that push each outlier towards the level of the margin.
        held_out: share of the samples that only sets the threshold.
        keep: share of these that is accepted.
        seed: of initial weights, of the order and of the outliers.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> Settings(steps=100).alpha
        10.0
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 2e-3
    margin: float | None = None
    alpha: float = 10.0
    outliers: tuple[str, ...] | None = None
    newton: int = 0
    held_out: float = 0.1
    keep: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 2, "newton": 0, "seed": 0}
        for name, low in least.items():
            whole(name, getattr(self, name), least=low)
        for name in ("lr", "margin", "alpha"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        for name in ("held_out", "keep"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be between 0 and 1; got {getattr(self, name)}.")
        unknown = set(self.outliers or ()) - set(OUTLIERS)
        if unknown or self.outliers == ():
            raise ValueError(
                f"`outliers` must be names of {', '.join(OUTLIERS)}; got {self.outliers}."
            )


def fit(
    samples: Samples,
    model: nn.Module | None = None,
    *,
    settings: Settings = Settings(),
    on_progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Detector:
    r"""Train a 1-Lipschitz score on normal samples alone.

    The negatives of the hinge Kantorovich-Rubinstein loss are made from the samples: shuffled, cut,
    bent and turned images and smooth noise, or vectors of independent coordinates. The threshold
    accepts `settings.keep` of the samples held out.

    Guarantee: that of the model: the default network is 1-Lipschitz in l2, which
        :func:`taut.anomaly.certify` proves from its weights.
    Cost: `settings.steps` steps of two batches.

    Args:
        samples: normal ones, images (n, c, h, w) or others; more than 10.
        model: from samples to one number each, trained in place; by default two convolutions and
            two dense layers for images, and a dense network for all else.
        settings: options of the training.
        on_progress: called after each step with its number and its loss; without a model of your
            own, this is that of samples in units of about their range.

    Raises:
        ValueError: if there are too few samples, or they are not finite floating-point numbers.

    Reference:
        Béthune et al. (2023), arXiv:2303.01978: loss and Newton-Raphson steps (algorithm 3, with
        `newton`); outliers made from the samples take the place of its uniform noise.

    Example:
        >>> detector = fit(torch.randn(200, 2), settings=Settings(steps=30))
        >>> float(taut.lipschitz_bound(detector, (2,))) < 1 + 1e-5
        True
    """
    kept, held_out = _split(samples, settings.held_out, settings.seed)
    gpus = [samples.device] if samples.is_cuda else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(settings.seed)
        if model is not None:
            _train(model, kept, settings, on_progress)
            score = projected(model).eval()
        else:
            score = _trained_network(kept, settings, on_progress)
    return Detector(score).calibrated(held_out, settings.keep)


def neighbours(
    samples: Samples,
    *,
    count: int = 10,
    share: float = 0.5,
    blur: float = 1.0,
    held_out: float = 0.1,
    keep: float = 0.95,
    seed: int = 0,
) -> Detector:
    r"""Score samples by their distances to the nearest normal ones; nothing is trained.

    Images are first blurred and halved in size by a convolution of norm 1 at most, which drops what
    does not tell classes apart.

    Guarantee: 1-Lipschitz in l2, see :class:`Neighbours`.
    Cost: a distance to each sample for every score.

    Args:
        samples: normal ones, images (n, c, h, w) or others; more than 10.
        count: of the least distances that are averaged.
        share: of the distance from each point to its nearest one, which is taken off.
        blur: standard deviation in pixels; 0 for images as they are.
        held_out: share of the samples that only sets the threshold.
        keep: share of these that is accepted.
        seed: of the choice of these.

    Raises:
        ValueError: if there are too few samples, they are not finite floating-point numbers, or
            an option is out of its range.

    Example:
        >>> detector = neighbours(torch.randn(100, 2))
        >>> [bool(f > 0) for f in detector(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))]
        [True, False]
    """
    blur = not_negative("blur", blur)
    held_out = unit_share("held_out", held_out, zero=False, one=False)
    kept, held_out_samples = _split(samples, held_out, seed)
    first = nn.Identity()
    if blur and _are_images(kept):
        first = _blurred(kept, blur)
    with torch.no_grad():
        points = torch.cat([first(x) for x in kept.split(256)])
    score = Neighbours.of(points, count=count, share=share)
    return Detector(nn.Sequential(first, score)).calibrated(held_out_samples, keep)


def _split(samples: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Samples to learn from, and those that set the threshold, in random order."""
    check_tensor("samples", samples)
    kinds = torch.float32, torch.float64
    if samples.dim() < 2 or len(samples) <= 10 or samples.dtype not in kinds:
        raise ValueError(
            "`samples` must be more than 10 samples of float32 or float64 numbers; got "
            f"{tuple(samples.shape)} of {samples.dtype}."
        )
    if not samples.isfinite().all():
        raise ValueError("`samples` must be finite; got NaN or Inf.")
    samples = samples.detach()
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    count = min(max(1, round(held_out * len(samples))), len(samples) - 2)
    return samples[order[count:].to(samples.device)], samples[order[:count].to(samples.device)]


def _are_images(samples: Tensor) -> bool:
    return samples.dim() == 4 and min(samples.shape[2:]) >= _SIDE


def _trained_network(
    samples: Tensor, settings: Settings, tell: Callable[[int, float], None]
) -> nn.Module:
    """The default network, trained in units in which coordinates have ranges up to 1."""
    extent = 2 * float((samples.amax(0).double() / 2 - samples.amin(0).double() / 2).max())
    most = math.frexp(torch.finfo(samples.dtype).max)[1] - 2  # 1 / unit is no denormal number
    exponent = math.frexp(min(extent, sys.float_info.max))[1] if extent > 0 else 0
    unit = 2.0 ** max(-most, min(exponent, most))
    margin = settings.margin and settings.margin / unit
    network = _network(samples)
    _train(network, samples / unit, replace(settings, margin=margin), tell)
    return nn.Sequential(Times(1 / unit), projected(network).eval(), Times(unit))


def _network(samples: Tensor) -> nn.Module:
    """A 1-Lipschitz network for such samples, in their precision."""
    shape = tuple(samples.shape[1:])
    if not _are_images(samples):
        return critics.dense(shape).to(samples)
    channels, height, width = shape
    entries = 32 * math.ceil(height / 4) * math.ceil(width / 4)
    return nn.Sequential(
        Conv2d(channels, 16, 4, stride=2), MaxMin(), Conv2d(16, 32, 4, stride=2), MaxMin(),
        nn.Flatten(), Linear(entries, 128), MaxMin(), Linear(128, 1),
    ).to(samples)  # fmt: skip


def _train(
    model: nn.Module, samples: Tensor, settings: Settings, tell: Callable[[int, float], None]
) -> None:
    random, count = torch.Generator().manual_seed(settings.seed), settings.batch_size
    margin = _quarter_gap(samples) if settings.margin is None else settings.margin
    loss = HingeKR(alpha=settings.alpha, margin=margin)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    names = settings.outliers or (IMAGES if _are_images(samples) else VECTORS)
    if samples.dim() != 4 and not set(names) <= set(VECTORS):
        raise ValueError(
            f"`outliers` must be of {', '.join(VECTORS)} for samples that are no images; "
            f"got {', '.join(names)}."
        )
    labels = torch.ones(2 * count, dtype=torch.long, device=samples.device)
    labels[count:] = -1
    for step in range(settings.steps):
        normal, others = samples[
            torch.randint(len(samples), (2, count), generator=random).to(samples.device)
        ]
        parts = [part for part in others.tensor_split(len(names)) if len(part)]
        made = torch.cat([OUTLIERS[n](x, random) for n, x in zip(names, parts, strict=False)])
        if settings.newton:
            made = pushed(model, made, -margin, settings.newton, random)
        optimiser.zero_grad()
        scores = model(torch.cat([normal, made]))
        if scores.numel() != len(labels):
            raise ValueError(
                f"`model` must give one number a sample; got shape {tuple(scores.shape[1:])}."
            )
        value = loss(scores, labels)
        value.backward()
        optimiser.step()
        schedule.step()
        tell(step + 1, float(value.detach()))


def _quarter_gap(samples: Tensor) -> float:
    """A quarter of the median distance from a sample to its nearest other one."""
    flat = samples[:1000].flatten(1).double()
    gaps = torch.cdist(flat, flat).fill_diagonal_(math.inf).amin(1)
    return max(float(gaps.median()) / 4, 1e-6)


def _blurred(samples: Tensor, deviation: float) -> nn.Conv2d:
    """A Gaussian blur of each channel at every second pixel; its proven bound is 1."""
    channels, reach = samples.shape[1], max(1, math.ceil(3 * deviation))
    at = torch.arange(-reach, reach, dtype=torch.float64) + 0.5
    line = torch.exp(-at.square() / (2 * deviation**2))
    kernel = torch.outer(line, line).expand(channels, 1, -1, -1)
    layer = nn.Conv2d(channels, channels, 2 * reach, 2, reach - 1, groups=channels, bias=False)
    layer.requires_grad_(False).to(torch.float64).weight.copy_(kernel / line.sum() ** 2)
    layer.weight.div_(float(prove(layer, tuple(samples.shape[1:])).bound))
    return layer.to(samples)
