"""Training a critic to tell two samples apart."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from taut.lipschitz import LipschitzBound, lipschitz_bound
from taut.parametrizations import cached, projected, retract_, update_
from taut.wasserstein._samples import Points
from taut.wasserstein.settings import Settings

_RETRACT_EVERY = 16
_BATCH = 256


class Measured(NamedTuple):
    """A critic in float64: its proved bound, and how to score with it."""

    model: nn.Module
    bound: LipschitzBound

    @torch.no_grad()
    def scores(self, points: Float[Tensor, "n *shape"]) -> Float64[Tensor, "n"]:
        """The score of each point."""
        with cached():
            parts = [self.model(part.double()).flatten() for part in points.split(_BATCH)]
        return torch.cat(parts)

    def lower(self, p: Float[Tensor, "n *shape"], q: Float[Tensor, "m *shape"]) -> float:
        """What the critic proves of the distance between two samples."""
        return dual_over_bound(self.scores(p), self.scores(q), self.bound)


def dual_over_bound(
    p: Float64[Tensor, "n"], q: Float64[Tensor, "m"], bound: LipschitzBound
) -> float:
    """Difference of the mean scores over the proved bound, at least 0; 0 for a constant critic.

    Example:
        >>> x = torch.tensor([3.0], dtype=torch.float64)
        >>> dual_over_bound(x, torch.zeros_like(x), LipschitzBound(2.0))
        1.5
    """
    value = float(p.mean() - q.mean())
    return max(value / float(bound), 0.0) if 0 < float(bound) < math.inf else 0.0


def measured(critic: nn.Module, shape: tuple[int, ...]) -> Measured:
    """The critic's twin in float64 and eval mode, with its proved bound.

    Raises:
        UnprovenError: if the critic cannot be bounded.
        ValueError: if it does not give one number a point.

    Example:
        >>> float(measured(nn.Linear(1, 1).requires_grad_(False), (1,)).bound) > 0
        True
    """
    twin = projected(critic).double().eval()
    bound = lipschitz_bound(twin, shape)
    tensor = next(chain(twin.parameters(), twin.buffers()), torch.empty(0))
    with torch.no_grad():
        shape_out = tuple(twin(torch.zeros(2, *shape, dtype=torch.float64).to(tensor.device)).shape)
    if shape_out not in ((2,), (2, 1)):
        raise ValueError(
            f"`critic` must give one number a point; got shape {shape_out} for two points."
        )
    return Measured(twin, bound)


Descent = Callable[[Iterable[nn.Parameter], Settings], tuple[Optimizer, LRScheduler]]
"""The optimiser of parameters, and how its learning rate goes on, step by step."""


def adam(parameters: Iterable[nn.Parameter], settings: Settings) -> tuple[Optimizer, LRScheduler]:
    """Adam, its rate falling to 0 along half a cosine.

    Example:
        >>> type(adam([nn.Parameter(torch.zeros(1))], Settings())[0]).__name__
        'Adam'
    """
    optimiser = torch.optim.Adam(parameters, lr=settings.lr)
    return optimiser, CosineAnnealingLR(optimiser, max(settings.steps, 1))


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


class Discipline(NamedTuple):
    """How a training descends, and what it does against steep critics beyond what layers guarantee.

    Attributes:
        penalty: of a critic on a batch of either side, added to the loss.
        after: what is done to the critic after a step, of that number from 1.
        descent: makes the optimiser.
    """

    penalty: Callable[[nn.Module, Tensor, Tensor], Tensor | float]
    after: Callable[[nn.Module, int], None]
    descent: Descent = adam


def after_step(critic: nn.Module, step: int) -> None:
    """What the methods of a critic ask for after an optimiser step.

    Example:
        >>> after_step(nn.Linear(1, 1), 1)
    """
    update_(critic, step)
    if step % _RETRACT_EVERY == 0:
        retract_(critic)


BY_DESIGN = Discipline(lambda *_: 0.0, after_step)
"""No more than what the layers' methods ask for."""


def train(
    critic: nn.Module,
    p: Points,
    q: Points,
    settings: Settings,
    check: Callable[[int, nn.Module], float | None],
    discipline: Discipline = BY_DESIGN,
) -> nn.Module:
    """Maximise the dual value; the weights of the best check are kept.

    Args:
        critic: trained in place.
        p: to score high.
        q: to score low.
        settings: of training.
        check: measures the critic after so many steps; None ends the training.
        discipline: how it descends, and against steep critics.

    Returns:
        The critic.

    Raises:
        RuntimeError: if a score is not finite.
    """
    optimiser, schedule = discipline.descent(critic.parameters(), settings)
    every = -(-settings.steps // settings.checks)
    best, kept = -1.0, critic.state_dict()
    for step, (x, y) in enumerate(_pairs(critic, p, q, settings)):
        if step % max(every, 1) == 0 or step == settings.steps:
            value = check(step, critic)
            if value is not None and value > best:
                best, kept = value, copy.deepcopy(critic.state_dict())
            if value is None or step == settings.steps:
                break
        critic.train()
        high, low = critic(torch.cat([x, y])).flatten().split([len(x), len(y)])
        loss = low.mean() - high.mean() + discipline.penalty(critic, x, y)
        if not bool(loss.isfinite()):
            raise RuntimeError(f"The critic's scores are not finite after {step} steps.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        discipline.after(critic, step + 1)
    critic.load_state_dict(kept)
    return critic.eval()


def _pairs(
    critic: nn.Module, p: Points, q: Points, settings: Settings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of both sides in the critic's precision, without end."""
    dtype = next(critic.parameters()).dtype
    # Both in the same order, so that points given in pairs come in pairs.
    first, second = (
        side.batches(settings.batch_size, torch.Generator().manual_seed(settings.seed))
        for side in (p, q)
    )
    for x, y in zip(first, second, strict=True):
        yield x.to(dtype), y.to(dtype)
