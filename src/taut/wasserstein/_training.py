"""Training a critic to tell two samples apart, and measuring what it proves."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from taut.linalg.rounding import down
from taut.parametrizations import cached, projected, retract_, update_
from taut.program import LipschitzBound, UnprovenError, lipschitz_bound
from taut.wasserstein._exact import exact_mean, largest_excess, rescaled
from taut.wasserstein._samples import Points
from taut.wasserstein._settings import Settings

_RETRACT_EVERY = 16
_BATCH = 256
_REFUTED = 1e-6  # rounding is far below this share of the scores


class MeasuredCritic(NamedTuple):
    """A critic in float64 with its proven Lipschitz bound.

    Attributes:
        model: the critic in float64 and eval mode.
        bound: its proved Lipschitz constant.
        exponent: the points and scores that it takes and gives are 2^exponent of those here.

    Example:
        >>> critic = measure_critic(nn.Linear(1, 1, bias=False).requires_grad_(False), (1,))
        >>> critic.scores(torch.zeros(2, 1)).tolist()
        [0.0, 0.0]
    """

    model: nn.Module
    bound: LipschitzBound
    exponent: int = 0

    def scores(self, points: Float[Tensor, "n *shape"]) -> Float64[Tensor, "n"]:
        """The score of each point."""
        return scores_of(self.model, points, self.exponent)

    def lower(self, p: Float[Tensor, "n *shape"], q: Float[Tensor, "m *shape"]) -> float:
        """The lower bound of the distance that the critic proves, up to rounding of scores."""
        return dual_over_bound((self.scores(p), self.scores(q)), self.bound)

    def excess(
        self,
        points: tuple[Float64[Tensor, "n d"], Float64[Tensor, "m d"]],
        scores: tuple[Float64[Tensor, "n"], Float64[Tensor, "m"]],
    ) -> Fraction:
        """What scores of points exceed the bound by.

        Raises:
            UnprovenError: if it is more than rounding explains.
        """
        bound = float(self.bound)
        if not all(bool(side.isfinite().all()) for side in scores) or not 0 < bound < math.inf:
            return Fraction(0)
        excess = largest_excess(points, scores, bound)
        largest = max(float(side.abs().max()) for side in scores)
        if excess > _REFUTED * largest + 2.0**-1000 * (1 + bound):
            raise UnprovenError(
                f"`critic` contradicts its bound of {bound:g}: the scores of two points differ by "
                f"{float(excess) / largest:.2g} of the largest score more than the bound allows; "
                "its forward must depend on the point alone, and must not lose it to rounding."
            )
        return excess


@torch.no_grad()
def scores_of(
    model: nn.Module, points: Float[Tensor, "n *shape"], exponent: int
) -> Float64[Tensor, "n"]:
    """The scores of a critic in float64 that takes and gives 2^exponent of points and scores."""
    with cached():
        parts = [
            model(rescaled(part.double(), exponent)).flatten() for part in points.split(_BATCH)
        ]
    return rescaled(torch.cat(parts), -exponent)


def dual_over_bound(
    scores: tuple[Float64[Tensor, "n"], Float64[Tensor, "m"]],
    bound: LipschitzBound,
    weights: tuple[Float64[Tensor, "n"] | None, Float64[Tensor, "m"] | None] = (None, None),
    excess: Fraction = Fraction(0),
) -> float:
    """Difference of the mean scores, less an excess, over the bound; rounded down, at least 0.

    0 for a constant critic, and where a score is not finite.

    >>> x = torch.tensor([3.0], dtype=torch.float64)
    >>> dual_over_bound((x, torch.zeros_like(x)), LipschitzBound(2.0))
    1.5
    """
    finite = all(bool(side.isfinite().all()) for side in scores)
    if not finite or not 0 < float(bound) < math.inf:
        return 0.0
    high, low = (exact_mean(*side) for side in zip(scores, weights, strict=True))
    return max(0.0, down((high - low - excess) / Fraction(float(bound))))


def measure_critic(critic: nn.Module, shape: tuple[int, ...], exponent: int = 0) -> MeasuredCritic:
    """A copy of a critic in float64 and eval mode, with its proven bound.

    Args:
        critic: gives one number a point.
        shape: of a point.
        exponent: the critic is built for 2^exponent times the points to score.

    Raises:
        UnprovenError: if the critic cannot be bounded.
        ValueError: if it does not give one number a point.

    Example:
        >>> float(measure_critic(nn.Linear(1, 1).requires_grad_(False), (1,)).bound) > 0
        True
    """
    model = projected(critic).double().eval()
    bound = lipschitz_bound(model, shape)
    tensor = next(chain(model.parameters(), model.buffers()), torch.empty(0, device="cpu"))
    zeros = torch.zeros(2, *shape, dtype=torch.float64, device=tensor.device)
    with torch.no_grad():
        shape_out = tuple(model(zeros).shape)
    if shape_out not in ((2,), (2, 1)):
        raise ValueError(
            f"`critic` must give one number a point; got shape {shape_out} for two points."
        )
    return MeasuredCritic(model, bound, exponent)


def adam(parameters: Iterable[nn.Parameter], settings: Settings) -> tuple[Optimizer, LRScheduler]:
    """Adam, its rate falling to 0 along half a cosine."""
    optimiser = torch.optim.Adam(parameters, lr=settings.lr)
    return optimiser, CosineAnnealingLR(optimiser, max(settings.steps, 1))


def after_step(critic: nn.Module, step: int) -> None:
    """Update the methods of a critic after an optimiser step.

    Example:
        >>> after_step(nn.Linear(1, 1), 1)
    """
    update_(critic, step)
    if step % _RETRACT_EVERY == 0:
        retract_(critic)


class CriticTraining(NamedTuple):
    """Options of the training of a critic.

    Attributes:
        penalty: added to the loss; of the critic and a batch of either side.
        after_step: called with the critic and the number of the step, from 1.
        optimiser: makes the optimiser and its schedule.

    Example:
        >>> CriticTraining().penalty(nn.Linear(1, 1), torch.zeros(1), torch.zeros(1))
        0.0
    """

    penalty: Callable[[nn.Module, Tensor, Tensor], Tensor | float] = lambda *_: 0.0
    after_step: Callable[[nn.Module, int], None] = after_step
    optimiser: Callable[[Iterable[nn.Parameter], Settings], tuple[Optimizer, LRScheduler]] = adam


def train_critic(
    critic: nn.Module,
    p: Points,
    q: Points,
    settings: Settings,
    check: Callable[[int, nn.Module], float | None],
    training: CriticTraining = CriticTraining(),  # noqa: B008 (frozen)
) -> nn.Module:
    """Maximise the dual value, and keep the weights of the best check.

    Args:
        critic: trained in place.
        p: to score high.
        q: to score low.
        settings: of training.
        check: measures the critic after so many steps; None ends the training.
        training: how it descends.

    Returns:
        The critic.

    Raises:
        RuntimeError: if a score is not finite.

    Example:
        >>> settings = Settings(steps=2, held_out=0.0)
        >>> sides = taut.wasserstein.read_samples(torch.ones(4, 1), torch.zeros(4, 1), settings)
        >>> critic = train_critic(nn.Linear(1, 1), *sides, settings, lambda step, _: float(step))
    """
    optimiser, schedule = training.optimiser(critic.parameters(), settings)
    every = max(-(-settings.steps // settings.checks), 1)
    best, kept = -1.0, critic.state_dict()
    for step, (x, y) in enumerate(_pairs(critic, p, q, settings)):
        if step % every == 0 or step == settings.steps:
            value = check(step, critic)
            if value is not None and value > best:
                best, kept = value, copy.deepcopy(critic.state_dict())
            if value is None or step == settings.steps:
                break
        critic.train()
        high, low = critic(torch.cat([x, y])).flatten().split([len(x), len(y)])
        loss = low.mean() - high.mean() + training.penalty(critic, x, y)
        if not bool(loss.isfinite()):
            raise RuntimeError(f"The critic's scores are not finite after {step} steps.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        training.after_step(critic, step + 1)
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
