"""What may be compared: tensors, data sets, loaders and samplers, as points."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taut.data import Dataset, Split
from taut.wasserstein.settings import Settings

FEWEST = 4
"""Points that a sample must have: two to train on, two to measure with."""


@runtime_checkable
class Indexed(Protocol):
    """A map-style data set of torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


Samples = Tensor | np.ndarray | Dataset | Split | Indexed | Iterable[Any] | Callable[[int], Tensor]
"""A tensor or array of points; a taut data set (its training images), or a split of one; a data set
of torch or a loader of batches, of points or of tuples that begin with them; or a sampler: a
function from a number n to n new points."""


@final
@dataclass(frozen=True)
class Points:
    """One side of the comparison.

    Attributes:
        training: points to train a critic on.
        validation: points to choose a critic by.
        held_out: points that no choice has seen; all points if nothing is held out.
        everything: all points given: what transport is between.
        sampler: gives new points to train on, if the side is a sampler.
    """

    training: Float[Tensor, "t *shape"]
    validation: Float[Tensor, "v *shape"]
    held_out: Float[Tensor, "h *shape"]
    everything: Float[Tensor, "n *shape"]
    sampler: Callable[[int], Tensor] | None

    @property
    def seen(self) -> Tensor:
        """What is not held out."""
        apart = self.validation is not self.training
        return torch.cat([self.training, self.validation]) if apart else self.training

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Batches without end: new points from a sampler, else epochs of shuffled points."""
        while self.sampler is not None:
            yield _checked("sampler", self.sampler(size)).to(self.training)
        count = len(self.training)
        order = torch.empty(0, dtype=torch.int64)
        while True:
            while len(order) < size:
                order = torch.cat([order, torch.randperm(count, generator=generator)])
            yield self.training[order[:size].to(self.training.device)]
            order = order[size:]


def read(
    name: str, samples: Samples, settings: Settings, device: torch.device | str | None
) -> Points:
    """The points of one side, checked, shuffled and cut into parts.

    Args:
        name: of the argument, for messages.
        samples: as the user gave them.
        settings: `held_out`, `samples` (of a sampler for each part) and `seed` decide the cut.
        device: where to put them; None leaves them where they are.

    Raises:
        ValueError: if there are too few points, or one is not finite.

    Example:
        >>> points = read("p", torch.arange(8.0)[:, None], Settings(held_out=0.5), None)
        >>> len(points.training), len(points.validation), len(points.held_out)
        (3, 1, 4)
    """
    seed, count, held_out = settings.seed, settings.samples, settings.held_out
    if callable(samples) and not isinstance(samples, Indexed | Tensor | Dataset | Split):
        first, second, third = (_checked(name, samples(count)).to(device) for _ in range(3))
        return Points(first, second, third, third, samples)
    points = _checked(name, _gathered(name, samples, count, seed)).to(device)
    # In the same order for both sides, so that points given in pairs stay in pairs.
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    shuffled = points[order.to(points.device)]
    measured = round(held_out * len(points))
    measured = min(max(measured, 2), len(points) - 2) if held_out else 0
    rest = shuffled[measured:]
    if not held_out:  # the whole is what counts, and there is nothing to generalise to
        return Points(rest, rest, rest, points, None)
    chosen = max(1, len(rest) // 4)
    return Points(rest[chosen:], rest[:chosen], shuffled[:measured], points, None)


def read_both(
    p: Samples, q: Samples, settings: Settings, device: torch.device | str | None = None
) -> tuple[Points, Points]:
    """The points of both sides, cut alike.

    Args:
        p: points to score high.
        q: points to score low.
        settings: `held_out`, `samples` and `seed` decide the cut.
        device: where to put them; None leaves them where they are.

    Raises:
        ValueError: as `read`; or if the points of the two differ in shape or device.

    Example:
        >>> x = torch.arange(8.0)[:, None]
        >>> [len(side.everything) for side in read_both(x, x[:5], Settings())]
        [8, 5]
    """
    first, second = (read(name, side, settings, device) for name, side in (("p", p), ("q", q)))
    shapes = [tuple(side.everything.shape[1:]) for side in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`p` and `q` must have points of one shape; got {shapes[0]} and {shapes[1]}."
        )
    devices = [side.everything.device for side in (first, second)]
    if devices[0] != devices[1]:
        raise ValueError(f"`p` and `q` must be on one device; got {devices[0]} and {devices[1]}.")
    return first, second


def _gathered(name: str, samples: Any, count: int, seed: int) -> Tensor:
    if isinstance(samples, Tensor):
        return samples
    if isinstance(samples, np.ndarray):
        return torch.from_numpy(samples)
    if isinstance(samples, Dataset):
        samples = samples.train
    if isinstance(samples, Split):
        return samples.float_images()
    if isinstance(samples, Indexed) and not isinstance(samples, list | tuple):
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
        # In the order they lie in: with room for all, these are the points of a tensor of them.
        points = [_point(name, samples[i]) for i in order[:count].sort().values.tolist()]
        return torch.stack(points) if points else _nothing()
    if not isinstance(samples, Iterable):
        raise ValueError(
            f"`{name}` must be a tensor, a data set, a loader or a sampler; "
            f"got {type(samples).__name__}."
        )
    batches: list[Tensor] = []
    for batch in samples:
        batches.append(_point(name, batch))
        if sum(map(len, batches)) >= count:
            break
    return torch.cat(batches)[:count] if batches else _nothing()


def _nothing() -> Tensor:
    return torch.empty(0, 1)


def _point(name: str, item: Any) -> Tensor:
    first = item[0] if isinstance(item, list | tuple) else item
    if not isinstance(first, Tensor):
        raise ValueError(
            f"`{name}` must hold tensors, or tuples that begin with one; "
            f"got {type(first).__name__}."
        )
    return first


def _checked(name: str, points: Any) -> Tensor:
    if not isinstance(points, Tensor):
        raise ValueError(f"`{name}` must give tensors; got {type(points).__name__}.")
    if points.dtype == torch.uint8:
        points = points.float() / 255
    if not points.is_floating_point():
        raise ValueError(
            f"`{name}` must hold real numbers, or pixels as uint8; got {points.dtype}."
        )
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim < 2 or 0 in points.shape[1:]:
        raise ValueError(
            f"`{name}` must have points along its first dimension and numbers along others; "
            f"got shape {tuple(points.shape)}."
        )
    if len(points) < FEWEST:
        raise ValueError(f"`{name}` must have at least {FEWEST} points; got {len(points)}.")
    if not bool(points.isfinite().all()):
        raise ValueError(f"`{name}` must be finite; it holds NaN or infinity.")
    return points.detach()
