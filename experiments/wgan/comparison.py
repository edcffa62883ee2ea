"""Critics side by side on one pair of samples: the founding paper's table 4, for any data."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from taut.wasserstein import (
    CriticTraining,
    Points,
    Samples,
    Settings,
    critics,
    measure_critic,
    read_samples,
    train_critic,
)

__all__ = [
    "ACTIVATIONS",
    "BY_PAPER",
    "METHODS",
    "Contest",
    "Fit",
    "at_best_rate",
    "paper_critics",
]

METHODS = ("OSSN", "RKO", "BCOP")
ACTIVATIONS = ("MaxMin", "ReLU")


def rmsprop(
    parameters: Iterable[nn.Parameter], settings: Settings
) -> tuple[Optimizer, LRScheduler]:
    """RMSprop at a constant rate, as the founding paper trains critics.

    Example:
        >>> optimiser, schedule = rmsprop([nn.Parameter(torch.zeros(1))], Settings(lr=0.5))
        >>> optimiser.step(), schedule.step(), schedule.get_last_lr()
        (None, None, [0.5])
    """
    optimiser = torch.optim.RMSprop(parameters, lr=settings.lr)
    return optimiser, ConstantLR(optimiser, factor=1.0)


BY_PAPER = CriticTraining(optimiser=rmsprop)
"""The founding paper's optimiser, and what the layers' methods ask for after a step."""


@final
@dataclass(frozen=True)
class Fit:
    """What one training of a critic came to.

    Attributes:
        rate: its learning rate.
        seed: of weights and order.
        validation: its lower bound on validation points.
        claimed: its dual value on held-out points; a lower bound only if its Lipschitz bound is 1.
        bound: its proved Lipschitz bound.
        lower: its lower bound on held-out points: the dual value over the proved bound, at least 0.

    Example:
        >>> Fit(0.01, 0, 4.0, 6.0, 2.0, 3.0).lower
        3.0
    """

    rate: float
    seed: int
    validation: float
    claimed: float
    bound: float
    lower: float


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


@final
@dataclass(frozen=True)
class Contest:
    """Two samples, cut once: every critic is trained on the same points and measured on the same.

    Attributes:
        p: points to score high.
        q: points to score low.

    Example:
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> contest = Contest.between(x, x + 3)
        >>> settings = Settings(steps=2, lr=0.1)
        >>> contest.fit(lambda: critics.dense((2,), width=4), settings).lower <= 3 * 2**0.5
        True
    """

    p: Points
    q: Points

    @classmethod
    def between(
        cls,
        p: Samples,
        q: Samples,
        *,
        settings: Settings = Settings(),  # noqa: B008 (frozen)
        device: torch.device | str | None = None,
    ) -> "Contest":
        """Cut two samples.

        Args:
            p: points to score high.
            q: points to score low.
            settings: `held_out`, `samples` and `seed` decide the cut.
            device: where to; None leaves tensors where they are.

        Raises:
            ValueError: if a sample is too small or not finite, or the two differ in shape.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return cls(*read_samples(p, q, settings, device))

    def fit(
        self,
        maker: Callable[[], nn.Module],
        settings: Settings,
        *,
        training: CriticTraining = CriticTraining(),  # noqa: B008 (frozen)
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Fit:
        """Train one critic; the weights of its best check count.

        Args:
            maker: builds the critic from torch's global random generator.
            settings: of training, with rate and seed.
            training: how it descends.
            on_step: called at each check.

        Returns:
            What it came to.
        """
        p, q = self.p, self.q
        shape = tuple(p.everything.shape[1:])

        def check(step: int, critic: nn.Module) -> float:
            on_step(step)
            return measure_critic(critic, shape).lower(p.validation, q.validation)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            critic = maker().to(p.everything.device)
            train_critic(critic, p, q, settings, check, training)
        measured = measure_critic(critic, shape)
        return Fit(
            rate=settings.lr,
            seed=settings.seed,
            validation=measured.lower(p.validation, q.validation),
            claimed=float(measured.scores(p.held_out).mean() - measured.scores(q.held_out).mean()),
            bound=float(measured.bound),
            lower=measured.lower(p.held_out, q.held_out),
        )


def at_best_rate(
    one: Callable[[float, int], Fit], *, rates: Sequence[float], seeds: Sequence[int]
) -> list[Fit]:
    """Sweep the learning rate with the first seed; the others take the best on validation points.

    Args:
        one: does one training, of a rate and a seed.
        rates: to try.
        seeds: trainings at the best rate.

    Returns:
        One training a seed.

    Raises:
        ValueError: if `rates` or `seeds` is empty.

    Example:
        >>> one = lambda rate, seed: Fit(rate, seed, -abs(rate - 0.1), 0.0, 1.0, 0.0)
        >>> [(fit.rate, fit.seed) for fit in at_best_rate(one, rates=(1.0, 0.1), seeds=(5, 6))]
        [(0.1, 5), (0.1, 6)]
    """
    if not rates or not seeds:
        raise ValueError(f"`rates` and `seeds` must not be empty; got {rates} and {seeds}.")
    best = max((one(rate, seeds[0]) for rate in rates), key=lambda fit: fit.validation)
    return [best, *(one(best.rate, seed) for seed in seeds[1:])]
