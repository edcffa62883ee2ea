"""Nets, steps and counts for the tests of optimisers on the manifold."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import taut
from taut.parametrizations import raws_among

OPTIMISERS = {
    "adam": partial(taut.optim.Adam, lr=0.02),
    "sgd": partial(taut.optim.SGD, lr=0.1, momentum=0.9),
}
each_optimiser = pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)


def net(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    """Raws of every kind: of one shape and of several, with groups, wide and tall."""
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        return _net()
    finally:
        torch.set_default_dtype(torch.float32)


def _net() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.Conv2d(1, 6, 3),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(6, 6, 3, groups=2),
        taut.nn.Conv2d(6, 4, 4, 2, parametrization=taut.RKO),
        taut.nn.MaxMin(),
        nn.Flatten(),
        taut.nn.Linear(36, 9),
        taut.nn.Linear(9, 12),
        taut.nn.Linear(12, 12),
        taut.nn.Linear(12, 3, parametrization=taut.AOL),
    )


def images(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.arange(8) % 3


def backward(model: nn.Module, seed: int = 0) -> float:
    x, labels = images(next(model.parameters()).dtype, seed)
    loss = nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    return loss.item()


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        optimiser.zero_grad()
        backward(model, step)
        optimiser.step()


def defect(model: nn.Module) -> float:
    raws = raws_among(model.parameters())
    return max(float((torch.linalg.svdvals(r.detach().double()) - 1).abs().max()) for r in raws)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Operations(TorchDispatchMode):
    """The names of the operations that run inside."""

    def __enter__(self):
        self.names: list[str] = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))

    def count(self, *parts: str) -> int:
        return sum(any(part in name for part in parts) for name in self.names)


BASIS = ("taut::", "cholesky", "triangular", "linalg_qr")
PRODUCTS = ("::mm", "::addmm", "::bmm", "_linear_pointwise")


def gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
