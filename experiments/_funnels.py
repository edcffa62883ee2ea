"""Pairs of distributions with a known distance and optimal critic, and critics trained on them.

The recipe of Korotin et al. (2022), *Kantorovich Strikes Back!*, for pairs of high dimension: u(x)
is the least of |x - a_i| + b_i, funnels with centres in a cube. A point y drawn uniformly from the
cube moves along its ray towards the centre of its funnel, from the share t of the ray to the share
t^8; on a ray u has slope 1, so that u(y) - u(T y) = |y - T y|, and -u is an optimal critic of the
moved points against the others: the distance is the mean of |y - T y|.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from experiments.wgan.heuristics import under_penalty
from taut.parametrizations import projected
from taut.wasserstein import (
    CriticTraining,
    Settings,
    closed_form,
    critics,
    estimate,
    measure_critic,
    read_samples,
    train_critic,
)

HALF, POWER, TESTS = 2.5, 8, 1 << 13
_BATCH, _TRIAL = 256, 20


@final
class Funnels(NamedTuple):
    """One pair; `u` is the potential, of which -u is optimal."""

    centres: Tensor
    heights: Tensor

    @classmethod
    def drawn(cls, dimension: int, count: int, seed: int) -> "Funnels":
        random = torch.Generator().manual_seed(seed)
        centres = HALF * (2 * torch.rand(count, dimension, generator=random) - 1)
        return cls(centres, 0.1 * torch.randn(count, generator=random))

    @property
    def u(self) -> closed_form.Potential:
        return closed_form.Potential(self.centres, -self.heights)

    def still(self, count: int, random: torch.Generator) -> Tensor:
        """Points of the cube."""
        return HALF * (2 * torch.rand(count, self.centres.shape[1], generator=random) - 1)

    def moved(self, y: Tensor) -> Tensor:
        """The points towards the centres of their funnels."""
        place = (torch.cdist(y, self.centres) + self.heights).argmin(1)
        centre = self.centres[place]
        length = (y - centre).norm(dim=1, keepdim=True)
        ray = (y - centre) / length  # (b, d)
        # To the cube: centre + r ray = +-HALF in a coordinate.
        to_cube = ((ray.sign() * HALF - centre) / ray).amin(1)
        # To funnel j: r + b_i = |r ray - c| + b_j with c = a_j - a_i and beta = b_i - b_j, hence
        # r = (|c|^2 - beta^2) / (2 (ray c + beta)), where the denominator is positive.
        c = self.centres - centre[:, None]  # (b, k, d)
        beta = self.heights[place][:, None] - self.heights
        slope = torch.einsum("bkd,bd->bk", c, ray) + beta
        other = torch.arange(len(self.centres)) != place[:, None]
        crosses = other & (slope > 0)
        to_other = (c.square().sum(2) - beta.square()) / (2 * slope)
        ends = torch.where(crosses, to_other, torch.inf).amin(1)
        end = torch.minimum(to_cube, ends)[:, None].maximum(length)
        return centre + (length / end) ** POWER * end * ray

    def sampler(self, seed: int, *, move: bool) -> Callable[[int], Tensor]:
        random = torch.Generator().manual_seed(seed)

        def draw(count: int) -> Tensor:
            parts = [self.still(len(part), random) for part in torch.empty(count).split(1024)]
            return torch.cat([self.moved(part) if move else part for part in parts])

        return draw

    def distance(self, seed: int) -> float:
        """The mean way of many points."""
        y = self.sampler(seed, move=False)(4 * TESTS)
        ways = [(part - self.moved(part)).norm(dim=1) for part in y.split(1024)]
        return float(torch.cat(ways).double().mean())


def orthogonal(dimension: int) -> nn.Module:
    return critics.dense((dimension,), width=max(2 * dimension, 128), depth=2)


def plain(dimension: int) -> nn.Module:
    width = max(2 * dimension, 128)
    layers = (nn.Linear(dimension, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(width, 1))


def contest(pair: Funnels, method: str, rate: float, budget: float, seed: int) -> dict[str, Any]:
    """A critic after so many CPU seconds of training: its value, its bound, its gradients."""
    dimension = pair.centres.shape[1]
    ours = method == "orthogonal"
    torch.manual_seed(seed)
    critic = (orthogonal if ours else plain)(dimension)
    training = CriticTraining() if ours else under_penalty(10.0, seed)
    samplers = (pair.sampler(seed + 1, move=True), pair.sampler(seed + 2, move=False))

    def fit(steps: int) -> float:
        settings = Settings(
            steps=steps, lr=rate, batch_size=_BATCH, checks=1, samples=64, seed=seed
        )
        start = time.process_time()
        sides = read_samples(*samplers, settings)
        train_critic(critic, *sides, settings, lambda step, _: float(step), training)
        return time.process_time() - start

    fit(_TRIAL)  # warm
    steps = max(1, int(_TRIAL * budget / fit(_TRIAL)))
    seconds = fit(steps)
    x, y = (pair.sampler(seed + 3, move=move)(TESTS) for move in (True, False))
    return {"steps": steps, "seconds": seconds} | measured(pair, critic, x, y)


def in_closed_form(pair: Funnels, points: int, seed: int) -> dict[str, Any]:
    """The best critic of `estimate` without a network: mostly the potential of its points."""
    start = time.process_time()
    x, y = (pair.sampler(seed + 1 + i, move=i == 0)(points) for i in (0, 1))
    found = estimate(x, y, settings=Settings(steps=0, checks=1, seed=seed))
    seconds = time.process_time() - start
    x, y = (pair.sampler(seed + 3, move=move)(TESTS) for move in (True, False))
    return {"chosen": found.chosen, "seconds": seconds} | measured(pair, found.critic, x, y)


def measured(pair: Funnels, critic: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """The dual value, the bound, what it proves, and the mean cosine of its gradient to -u's."""
    final = measure_critic(critic, tuple(x.shape[1:]))
    slopes = []
    for model in (projected(critic).float().eval(), pair.u):
        place = x.clone().requires_grad_()
        slopes += torch.autograd.grad(model(place).sum(), place)
    value = float(final.scores(x).mean() - final.scores(y).mean())
    return {
        "value": value,
        "bound": float(final.bound),
        "lower": final.lower(x, y),
        "cosine": float(torch.cosine_similarity(slopes[0], -slopes[1]).mean()),
    }
