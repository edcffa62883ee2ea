"""Attacks within each threat: the smallest size at which one finds a wrong answer.

They look for changes of any of the sizes asked for, so that accuracy under attack is an upper
bound of the certified accuracy. Images may leave [0, 1] where the threat lets them.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.certification import logit_margin
from taut.threats import L0, AbstractBall, AbstractThreat, AbstractTransformation

_STEPS, _BATCH, _CANDIDATES = 20, 500, 12
_GRIDS = {1: 81, 2: 17}


@torch.no_grad()
def survived(
    model: nn.Module, images: Tensor, labels: Tensor, threat: AbstractThreat, sizes: Sequence[float]
) -> list[float]:
    """Accuracy under attack at each size."""
    parts = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    wrong = torch.cat([_smallest(model, x, y, threat, sizes) for x, y in parts])
    return [(wrong > size).double().mean().item() for size in sizes]


def _smallest(
    model: nn.Module, x: Tensor, y: Tensor, threat: AbstractThreat, sizes: Sequence[float]
) -> Tensor:
    """The smallest size of a change found; 0 for wrong images, infinite if there is none."""
    wrong = torch.where(model(x).argmax(1) == y, torch.inf, 0.0).double()
    if isinstance(threat, AbstractTransformation):
        return torch.minimum(wrong, _on_a_grid(model, x, y, threat, max(sizes)))
    assert isinstance(threat, L0 | AbstractBall)
    for size in sizes:
        left = (wrong > size).nonzero().flatten()
        if not len(left):
            break
        if isinstance(threat, L0):
            hit = _few_pixels(model, x[left], y[left], threat, size)
        else:
            hit = _in_a_ball(model, x[left], y[left], threat, size)
        wrong[left[hit]] = size
    return wrong


def _on_a_grid(
    model: nn.Module, x: Tensor, y: Tensor, threat: AbstractTransformation, most: float
) -> Tensor:
    """The nearest wrong answer on a grid of parameters up to a size."""
    line = torch.linspace(-most, most, _GRIDS[threat.axes], dtype=torch.float64)
    wrong = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for point in itertools.product(line.tolist(), repeat=threat.axes):
        t = torch.tensor(point, dtype=torch.float64).expand(len(x), -1)
        hit = model(threat.transformed(x.double(), t).to(x)).argmax(1) != y
        wrong[hit] = wrong[hit].clamp(max=max(map(abs, point)))
    return wrong


def _slope(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How the largest other logit less the label's changes, and where it is ahead."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        gap = -logit_margin(model(x), y)
        (slope,) = torch.autograd.grad(gap.sum(), x)
    return slope, gap >= 0


def _in_a_ball(model: nn.Module, x: Tensor, y: Tensor, threat: AbstractBall, size: float) -> Tensor:
    """Frank-Wolfe steps: the furthest point of the ball along the gradient, with smaller shares."""
    factors, change = threat.factors(tuple(x.shape[1:])).to(x), torch.zeros_like(x)
    hit = torch.zeros(len(x), dtype=torch.bool)
    for step in range(_STEPS):
        slope, ahead = _slope(model, x + change, y)
        hit |= ahead
        steep = (factors * slope).flatten(1)
        if threat.norm == "linf":
            z = steep.sign()
        elif threat.norm == "l1":
            top = steep.abs().argmax(1, keepdim=True)
            z = torch.zeros_like(steep).scatter(1, top, steep.gather(1, top).sign())
        else:
            z = steep / steep.norm(dim=1, keepdim=True).clamp(min=1e-12)
        furthest = size * factors * z.reshape(x.shape)
        hit |= model(x + furthest).argmax(1) != y
        change += (furthest - change) * 2 / (step + 2)
    return hit | (model(x + change).argmax(1) != y)


def _few_pixels(model: nn.Module, x: Tensor, y: Tensor, threat: L0, size: float) -> Tensor:
    """Pixels one by one: of those with the steepest effect the one that helps most."""
    changed, hit = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    for _ in range(int(size)):
        slope, _ = _slope(model, changed, y)
        ends = torch.stack([threat.low - changed, threat.high - changed])
        effect, end = (ends * slope).flatten(2).max(0)
        best, after = torch.full((len(x),), -torch.inf).double(), changed
        places = effect.topk(_CANDIDATES, dim=1).indices
        values = torch.tensor([threat.low, threat.high]).to(x)[end]
        for place in places.unbind(1):
            trial = changed.flatten(1).clone()
            trial.scatter_(1, place[:, None], values.gather(1, place[:, None]))
            trial = trial.reshape(x.shape)
            gap = -logit_margin(model(trial), y)
            hit |= gap >= 0
            after = torch.where((gap > best)[:, None, None, None], trial, after)
            best = torch.maximum(best, gap)
        changed = after
    return hit
