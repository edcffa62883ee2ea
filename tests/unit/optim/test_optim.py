"""Optimisers on the manifold: orthonormal after every step, no basis between steps."""

import pytest
import torch
from torch import Tensor, nn

import taut
from optim_cases import (
    BASIS,
    OPTIMISERS,
    PRODUCTS,
    Operations,
    backward,
    defect,
    each_optimiser,
    gradient,
    net,
    train,
)
from taut.parametrizations import raws_among
from taut.parametrizations._cache import keeping_bases


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("adam", torch.float32, 1e-6),
        ("sgd", torch.float64, 1e-13),
        pytest.param("sgd", torch.float32, 1e-6, marks=pytest.mark.slow),
        pytest.param("adam", torch.float64, 1e-13, marks=pytest.mark.slow),
    ],
)
def test_raws_stay_orthonormal_at_high_rates(name, dtype, tolerance):
    model = net(dtype)
    optimiser = OPTIMISERS[name](model.parameters())
    optimiser.param_groups[0]["lr"] *= 10
    for step in range(0, 200, 10):
        train(model, optimiser, 10, step)
        assert defect(model) < tolerance


def test_large_matrices_stay_orthonormal():
    torch.manual_seed(0)
    model = nn.Sequential(taut.nn.Linear(300, 260), taut.nn.Linear(260, 260))
    for lr in (1e-3, 1e-2):
        optimiser = taut.optim.Adam(model.parameters(), lr=lr)
        for _ in range(2):
            optimiser.zero_grad()
            model(torch.randn(64, 300)).square().sum().backward()
            optimiser.step()
            assert defect(model) < 1e-6


@each_optimiser
def test_no_basis_is_computed_between_steps(make):
    model = net(torch.float32)
    optimiser = make(model.parameters())
    train(model, optimiser, 2)
    with Operations() as operations:
        backward(model)
    assert operations.count(*BASIS) == 0
    del optimiser
    with Operations() as operations:
        backward(model)
    assert operations.count(*BASIS) > 0


@pytest.mark.parametrize("sizes", [(6, 4), (4, 6), (5, 5), (300, 200), (200, 300)], ids=str)
def test_a_dense_layer_takes_two_products_more_than_a_plain_one(sizes):
    x, counts = torch.randn(64, sizes[0], requires_grad=True), []
    for layer in (taut.nn.Linear(*sizes), nn.Linear(*sizes)):
        optimiser = taut.optim.Adam(layer.parameters())
        layer(x)
        with Operations() as operations:
            layer(x).sum().backward()
        counts.append(operations.count(*PRODUCTS))
        del optimiser
    # The projection of the gradient takes two more, of which one is small.
    assert counts == [5, 3]


def test_batched_computes_no_basis_either():
    model = net()
    optimiser = taut.optim.Adam(model.parameters())
    backward(model)
    with Operations() as operations, taut.batched(model):
        backward(model)
    assert operations.count(*BASIS) == 0
    optimiser.step()


def polar(a: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(a, full_matrices=False)
    return u @ v


def slow_adam(p: Tensor, grad: Tensor, state: dict, t: int, lr: float) -> Tensor:
    state["m"] = 0.8 * state.get("m", 0) + 0.2 * grad
    state["v"] = 0.9 * state.get("v", 0) + 0.1 * grad**2
    unbiased = state["m"] / (1 - 0.8**t), state["v"] / (1 - 0.9**t)
    return p * (1 - lr * 0.1) - lr * unbiased[0] / (unbiased[1] ** 0.5 + 1e-3)


def slow_sgd(p: Tensor, grad: Tensor, state: dict, t: int, lr: float) -> Tensor:
    decayed = grad + 0.1 * p
    state["m"] = 0.9 * state["m"] + decayed if t > 1 else decayed
    return p - lr * (decayed + 0.9 * state["m"])


SLOW = {
    "adam": (taut.optim.Adam, slow_adam, {"betas": (0.8, 0.9), "eps": 1e-3}),
    "sgd": (taut.optim.SGD, slow_sgd, {"momentum": 0.9, "nesterov": True}),
}


@pytest.mark.parametrize(("make", "slow", "options"), SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("foreach", [False, True])
def test_steps_are_those_of_a_slow_loop(make, slow, options, foreach):
    model, other = net(), net()
    optimiser = make(model.parameters(), 0.02, weight_decay=0.1, foreach=foreach, **options)
    states: dict[int, dict] = {}
    raws = {id(raw) for raw in raws_among(other.parameters())}
    for t in range(1, 6):
        train(model, optimiser, 1, t)
        raw_tensors = raws_among(other.parameters())
        with keeping_bases([(raw, raw.view_as(raw)) for raw in raw_tensors]):
            backward(other, t)  # the gradient of the basis, where the raw tensor is one
        with torch.no_grad():
            for i, p in enumerate(other.parameters()):
                grad = gradient(p)
                if id(p) in raws:
                    grad = grad - p @ (p.mT @ grad + grad.mT @ p) / 2
                moved = slow(p, grad, states.setdefault(i, {}), t, 0.02)
                p.copy_(polar(moved) if id(p) in raws else moved)
                p.grad = None
        pairs = zip(model.parameters(), other.parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in pairs)
