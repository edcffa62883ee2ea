"""What may be compared: tensors, data sets, loaders and samplers, as points."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taut.data import Dataset, Split
from taut.wasserstein._exact import rescaled
from taut.wasserstein._settings import Settings
from taut.wasserstein._tables import frame_columns, frame_of, frame_points, same_columns

FEWEST = 4
"""Points that a sample must have if some are held out: two to train on, two to measure with."""


@runtime_checkable
class Indexed(Protocol):
    """A map-style data set of torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


Samples = Tensor | np.ndarray | Dataset | Split | Indexed | Iterable[Any] | Callable[[int], Tensor]
"""A tensor or array of points; a pandas DataFrame with columns of numbers; a taut data set (its
training images), or a split of one; a data set of torch or a loader of batches, of points or of
tuples that begin with them; or a sampler: a function from a number n to n new points."""

Weights = Tensor | np.ndarray | Iterable[int | float]
"""A number >= 0 for each point, not all 0; only their ratios count."""


@final
@dataclass(frozen=True)
class Points:
    """One side of the comparison.

    Attributes:
        training: points to train a critic on.
        validation: points to choose a critic by.
        held_out: points that no choice has seen; all points if nothing is held out.
        everything: all points given: what transport is between.
        cut: whether points are held out.
        sampler: gives new points to train on, if the side is a sampler.
        weights: of the points, in float64; then every part is all points. None if all are equal.
    """

    training: Float[Tensor, "t *shape"]
    validation: Float[Tensor, "v *shape"]
    held_out: Float[Tensor, "h *shape"]
    everything: Float[Tensor, "n *shape"]
    cut: bool
    sampler: Callable[[int], Tensor] | None = None
    weights: Float64[Tensor, "n"] | None = None

    @property
    def seen(self) -> Tensor:
        """All points that are not held out."""
        return torch.cat([self.training, self.validation]) if self.cut else self.training

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Infinite batches: new points from a sampler, or epochs of shuffled points."""
        while self.sampler is not None:
            yield self.sampler(size).to(self.training)
        while self.weights is not None:
            shares = self.weights / self.weights.max()
            places = torch.multinomial(shares, size, replacement=True, generator=generator)
            yield self.training[places.to(self.training.device)]
        order = torch.empty(0, dtype=torch.int64, device="cpu")
        while True:
            while len(order) < size:
                epoch = torch.randperm(len(self.training), generator=generator, device="cpu")
                order = torch.cat([order, epoch])
            yield self.training[order[:size].to(self.training.device)]
            order = order[size:]

    def scaled(self, exponent: int) -> "Points":
        """The points times 2^exponent."""
        return self.mapped(lambda points: rescaled(points.double(), exponent).to(points.dtype))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Points":
        """Each point changed by a function of batches."""
        draw = self.sampler
        return replace(
            self,
            training=change(self.training),
            validation=change(self.validation),
            held_out=change(self.held_out),
            everything=change(self.everything),
            sampler=None if draw is None else lambda size: change(draw(size)),
        )


def read_samples(
    p: Samples,
    q: Samples,
    settings: Settings,
    device: torch.device | str | None = None,
    weights: tuple[Weights | None, Weights | None] = (None, None),
    names: tuple[str, str] = ("p", "q"),
) -> tuple[Points, Points]:
    """The points of both samples, cut to the same shape.

    Args:
        p: points to score high.
        q: points to score low.
        settings: `held_out`, `samples` (of a sampler for each part) and `seed` decide the cut.
        device: where to put them; None leaves them where they are.
        weights: of the points of either side, which are then not cut; None for equal ones.
        names: what errors call the two sides.

    Raises:
        ValueError: if there are too few points, one is not finite, the points of the two sides
            differ in shape or device, or the weights do not fit.

    Example:
        >>> x = torch.arange(8.0)[:, None]
        >>> first, second = read_samples(x, x[:5], Settings(held_out=0.5))
        >>> len(first.training), len(first.validation), len(first.held_out), len(second.everything)
        (3, 1, 4, 5)
    """
    feature_names(p, q, names)
    first = read_side(names[0], p, weights[0], settings, device)
    second = read_side(names[1], q, weights[1], settings, device)
    for words, attribute in (
        ("have points of one shape", lambda points: tuple(points.shape[1:])),
        ("be on one device", lambda points: points.device),
    ):
        values = [attribute(side.everything) for side in (first, second)]
        if values[0] != values[1]:
            raise ValueError(
                f"`{names[0]}` and `{names[1]}` must {words}; got {values[0]} and {values[1]}."
            )
    return first, second


def feature_names(p: Any, q: Any, names: tuple[str, str]) -> tuple[str, ...] | None:
    """Names of the columns of DataFrames, or of the first of two Series; None for other samples."""
    first, second = frame_columns(p), frame_columns(q)
    if first and second and p.ndim == q.ndim == 1:
        return first
    return same_columns(first, second, names)


def read_side(
    name: str,
    samples: Samples,
    weights: Weights | None,
    settings: Settings,
    device: torch.device | str | None = None,
) -> Points:
    """The points of one side, checked, shuffled and cut into parts."""
    seed, held_out = settings.seed, settings.held_out
    if callable(samples) and not isinstance(samples, Indexed | Tensor | Dataset | Split):
        if weights is not None:
            raise ValueError(f"`weights` must be None for `{name}`: a sampler has no points.")
        training = _drawn(name, samples, None, settings.samples).to(device)
        draw = partial(_drawn, name, samples, training.shape[1:])
        validation, held = (draw(settings.samples).to(device) for _ in range(2))
        return Points(training, validation, held, held, True, draw)
    points = points_of(name, samples, settings.samples, seed).to(device)
    fewest = FEWEST if held_out and weights is None else 1
    if len(points) < fewest:
        raise ValueError(f"`{name}` must have at least {fewest} points; got {len(points)}.")
    if weights is not None:
        shares = _checked_weights(name, weights, len(points))
        return Points(points, points, points, points, False, weights=shares)
    # In the same order for both sides, so that points given in pairs stay in pairs.
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed), device="cpu")
    shuffled = points[order.to(points.device)]
    if not held_out:  # the whole is what counts, and there is nothing to generalise to
        return Points(shuffled, shuffled, shuffled, points, False)
    measured = min(max(round(held_out * len(points)), 2), len(points) - 2)
    seen = shuffled[measured:]
    chosen = max(1, len(seen) // 4)
    return Points(seen[chosen:], seen[:chosen], shuffled[:measured], points, True)


def points_of(name: str, samples: Samples, count: int, seed: int) -> Tensor:
    """The points of anything but a sampler, checked."""
    return _checked(name, _gathered(name, samples, count, seed))


def _drawn(
    name: str, sampler: Callable[[int], Tensor], shape: torch.Size | None, count: int
) -> Tensor:
    """New points from a sampler, of the number and the shape that they must have."""
    points = _checked(name, sampler(count))
    if len(points) != count or points.shape[1:] != (shape or points.shape[1:]):
        wanted = "" if shape is None else f" of shape {tuple(shape)}"
        raise ValueError(
            f"`{name}` must return {count} points{wanted} when it is called with {count}; "
            f"got a tensor of shape {tuple(points.shape)}."
        )
    return points


def _gathered(name: str, samples: Any, count: int, seed: int) -> Tensor:
    """The points of anything but a sampler, at most `count` of a data set or loader of torch."""
    if isinstance(samples, Tensor):
        return samples
    if (frame := frame_of(samples)) is not None:
        return frame_points(name, frame)
    if isinstance(samples, np.ndarray):
        if np.ma.is_masked(samples):
            raise ValueError(
                f"`{name}` must have a number at each place; its mask leaves some out."
            )
        native = samples.dtype.newbyteorder("=")
        try:
            return torch.from_numpy(np.require(samples, native, ["C", "W"]))
        except (TypeError, ValueError):
            got = f"got an array of {samples.dtype}"
            raise ValueError(f"`{name}` must hold real numbers that torch knows; {got}.") from None
    if isinstance(samples, Dataset | Split):
        return (samples.train if isinstance(samples, Dataset) else samples).float_images()
    if isinstance(samples, Indexed) and not isinstance(samples, list | tuple):
        order = torch.randperm(
            len(samples), generator=torch.Generator().manual_seed(seed), device="cpu"
        )
        # In the order they lie in: with room for all, these are the points of a tensor of them.
        places = order[:count].sort().values.tolist()
        return _joined(name, (_point(name, samples[i])[None] for i in places), count)
    if isinstance(samples, Iterable):
        return _joined(name, (_point(name, batch) for batch in samples), count)
    raise ValueError(
        f"`{name}` must be a tensor, a data set, a loader or a sampler; "
        f"got {type(samples).__name__}."
    )


def _joined(name: str, batches: Iterable[Tensor], count: int) -> Tensor:
    """The first `count` points of batches; none is drawn beyond."""
    taken: list[Tensor] = []
    for batch in batches:
        taken.append(batch if batch.ndim else batch[None])
        if batch.shape[1:] != taken[0].shape[1:]:
            shapes = f"{tuple(taken[0].shape[1:])} and {tuple(batch.shape[1:])}"
            raise ValueError(f"`{name}` must have points of one shape; got {shapes}.")
        if sum(map(len, taken)) >= count:
            break
    return torch.cat(taken)[:count] if taken else torch.empty(0, 1, device="cpu")


def _point(name: str, item: Any) -> Tensor:
    first = item[0] if isinstance(item, list | tuple) else item
    if isinstance(first, Tensor):
        return first
    raise ValueError(
        f"`{name}` must hold tensors, or tuples that begin with one; got {type(first).__name__}."
    )


def _checked(name: str, points: Any) -> Tensor:
    """Points as a float tensor, refused unless finite and in rows."""
    if not isinstance(points, Tensor):
        raise ValueError(f"`{name}` must give tensors; got {type(points).__name__}.")
    if points.dtype == torch.uint8:
        points = points.float() / 255
    if not points.is_floating_point():
        got = f"got {points.dtype}"
        raise ValueError(f"`{name}` must hold real numbers, or pixels as uint8; {got}.")
    if points.ndim < 2 or 0 in points.shape[1:]:
        line = ": points on a line are x[:, None], the counts of a histogram are `weights`"
        raise ValueError(
            f"`{name}` must have points along its first dimension and numbers along others; "
            f"got shape {tuple(points.shape)}{line if points.ndim == 1 else ''}."
        )
    if not bool(points.isfinite().all()):
        raise ValueError(f"`{name}` must be finite; it holds NaN or infinity.")
    return points.detach()


def _checked_weights(name: str, weights: Weights, count: int) -> Tensor:
    given = isinstance(weights, Tensor | np.ndarray)
    values = torch.as_tensor(weights if given else np.array([*weights], dtype=np.float64))
    if tuple(values.shape) != (count,) or values.is_complex():
        raise ValueError(
            f"`weights` must be one number for each of the {count} points of `{name}`; "
            f"got {values.dtype} of shape {tuple(values.shape)}."
        )
    values = values.detach().cpu().double()
    if not bool((values >= 0).all()) or not 0 < float(values.sum()) < float("inf"):
        raise ValueError(f"`weights` of `{name}` must be finite, at least 0, and not all 0.")
    return values
