"""Critics side by side on one pair of samples: the founding paper's table 4, for any data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean, stdev
from typing import final

import torch
from torch import nn

from taut.wasserstein import critics
from taut.wasserstein._fit import Measured, measured, train
from taut.wasserstein._samples import Points, Samples, read
from taut.wasserstein.settings import Settings

METHODS = ("OSSN", "RKO", "BCOP")
ACTIVATIONS = ("MaxMin", "ReLU")


@final
@dataclass(frozen=True)
class Compared:
    """What one critic came to, at its best learning rate.

    Attributes:
        name: of the critic.
        rate: the learning rate that was best on validation points, with the first seed.
        lower: lower bounds on held-out points, one a seed.
        bounds: proved Lipschitz bounds, one a seed.

    Example:
        >>> Compared("BCOP, MaxMin", 0.01, (4.0, 5.0), (1.0, 1.0)).mean
        4.5
    """

    name: str
    rate: float
    lower: tuple[float, ...]
    bounds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the lower bounds."""
        return fmean(self.lower)

    @property
    def std(self) -> float | None:
        """Of the lower bounds, where there are several seeds."""
        return stdev(self.lower) if len(self.lower) > 1 else None


def paper_critics(
    shape: tuple[int, int, int], *, width: int = 64
) -> dict[str, Callable[[], nn.Module]]:
    """The six critics of table 4 by name.

    Args:
        shape: channels, height and width.
        width: channels of the first convolution; the paper takes 64.

    Example:
        >>> list(paper_critics((1, 8, 8)))[:2]
        ['OSSN, MaxMin', 'RKO, MaxMin']
    """

    def maker(method: str, activation: str) -> Callable[[], nn.Module]:
        return lambda: critics.dcgan(
            shape, width=width, activation=activation, parametrization=method
        )

    pairs = product(ACTIVATIONS, METHODS)
    return {f"{method}, {kind}": maker(method, kind) for kind, method in pairs}


def compare(
    p: Samples,
    q: Samples,
    makers: Mapping[str, Callable[[], nn.Module]],
    *,
    rates: Sequence[float],
    seeds: int = 3,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
) -> list[Compared]:
    """Train each critic on the same points and measure it on the same held-out points.

    The learning rate of each is chosen on validation points, with the first seed; the other seeds
    take it. The cut of the points is that of `settings.seed` throughout.

    Args:
        p: points to score high.
        q: points to score low.
        makers: by name, what builds a critic from torch's global random generator.
        rates: learning rates to try.
        seeds: trainings of each critic at its best rate.
        settings: of training; `lr` is not read.

    Returns:
        One row a critic, in the order given.

    Raises:
        ValueError: if the samples do not fit, or `rates` or `seeds` is empty.

    Example:
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> makers = {"dense": lambda: critics.dense((2,), width=4)}
        >>> rows = compare(x, x + 3, makers, rates=(0.1,), seeds=1, settings=Settings(steps=2))
        >>> rows[0].mean <= 3 * 2**0.5
        True
    """
    if not rates or seeds < 1:
        raise ValueError(f"`rates` and `seeds` must not be empty; got {rates} and {seeds}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        first, second = (
            read(
                name,
                side,
                held_out=settings.held_out,
                count=settings.samples,
                seed=settings.seed,
                device=None,
            )
            for name, side in (("p", p), ("q", q))
        )
    return [
        _compared(
            name, maker, (first, second), rates, [settings.seed + i for i in range(seeds)], settings
        )
        for name, maker in makers.items()
    ]


def _compared(
    name: str,
    maker: Callable[[], nn.Module],
    sides: tuple[Points, Points],
    rates: Sequence[float],
    seeds: Sequence[int],
    settings: Settings,
) -> Compared:
    p, q = sides
    best, rate, kept = -math.inf, rates[0], None
    for candidate in rates:
        found = _trained(maker, sides, replace(settings, lr=candidate, seed=seeds[0]))
        value = found.lower(p.validation, q.validation)
        if value > best:
            best, rate, kept = value, candidate, found
    assert kept is not None
    others = [_trained(maker, sides, replace(settings, lr=rate, seed=seed)) for seed in seeds[1:]]
    results = [kept, *others]
    lower = tuple(found.lower(p.held_out, q.held_out) for found in results)
    return Compared(name, rate, lower, tuple(float(found.bound) for found in results))


def _trained(
    maker: Callable[[], nn.Module], sides: tuple[Points, Points], settings: Settings
) -> Measured:
    p, q = sides
    shape = tuple(p.training.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        critic = maker().to(p.training.device)

        def check(step: int, critic: nn.Module) -> float:
            return measured(critic, shape).lower(p.validation, q.validation)

        train(critic, p, q, settings, check)
    return measured(critic, shape)
