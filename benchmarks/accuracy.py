"""How orthogonal layers are for raw tensors that are not fresh: Gaussian ones, and trained ones."""

from dataclasses import dataclass
from itertools import product

import torch
from torch import nn
from torch.nn import functional as F

from taut.benchmark import Settings, orthogonality, parse_case, select

_ADAM_STEPS = 200
_FORWARDS = 10

_RAWS = ("gaussian", "trained")
ACCURACY = (
    *product(("128x128x3@8b2", "256x256x3@8b2"), ("taut", "orthogonium"), _RAWS),
    *product(("512x512x3@8b2", "4096x512b8"), ("taut",), _RAWS),
    ("1024x1024x3@8b2", "taut", "gaussian"),
    ("large-cifar10b8", "taut", "trained"),
)
QUICK_ACCURACY = (("8x8x3@8b2", "taut", "gaussian"), ("8x8x3@8b2", "taut", "trained"))


@dataclass(frozen=True)
class Accuracy:
    """The extreme singular values of one contender for raw tensors of one kind."""

    case: str
    contender: str
    raws: str
    error: float
    above: float


def accuracy(name: str, contender: str, raws: str, settings: Settings) -> Accuracy:
    """The spectrum for "gaussian" raw tensors, or "trained" ones: 200 steps of Adam at 1e-2."""
    torch.manual_seed(0)
    case = parse_case(name)
    module = select([contender])[-1].build(case).to(settings.place)
    x = torch.rand(case.batch, *case.input_shape, device=settings.place)
    {"gaussian": _draw, "trained": _train}[raws](module, x)
    with settings.autocast():
        found = orthogonality(module, case)
    return Accuracy(name, contender, raws, found.error, found.above)


def _draw(module: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        for raw in module.parameters():
            if raw.requires_grad and raw.ndim > 1:
                raw.normal_()
        module.train()
        for _ in range(_FORWARDS):  # for whoever iterates from one forward to the next
            module(x)


def _train(module: nn.Module, x: torch.Tensor) -> None:
    module.train()
    target = torch.randn_like(module(x).detach())
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2, fused=True)
    for _ in range(_ADAM_STEPS):
        optimiser.zero_grad()
        F.mse_loss(module(x), target).backward()
        optimiser.step()
