"""Known distances: the ways of the moved points are an optimal plan, and -u proves it."""

import ot
import pytest
import torch

from experiments._funnels import HALF, Funnels, measured
from experiments.drift import SHIFTS, binomial


@pytest.mark.parametrize(("dimension", "count"), [(2, 1), (2, 64), (5, 4), (16, 16)])
def test_ways_of_the_points_are_an_optimal_plan(dimension, count):
    pair = Funnels.drawn(dimension, count, seed=3)
    pair = Funnels(pair.centres.double(), pair.heights.double())
    y = pair.still(150, torch.Generator().manual_seed(0)).double()
    x = pair.moved(y)
    costs = (x[:, None] - y).norm(dim=2)
    exact = ot.emd2([], [], costs.numpy())
    ways = (x - y).norm(dim=1)
    assert float(ways.mean()) == pytest.approx(float(exact), rel=1e-9)
    # u falls by the way of each point, and is 1-Lipschitz: by duality no plan is shorter.
    assert torch.allclose((pair.u(y) - pair.u(x))[:, 0], ways, atol=1e-9)
    assert x.abs().max() <= HALF + 1e-9
    assert float(ways.max()) > 0.1


def test_the_optimal_critic_has_cosine_one_and_proves_the_distance():
    pair = Funnels.drawn(4, 8, seed=0)
    optimal = torch.nn.Sequential(pair.u, torch.nn.Linear(1, 1, bias=False).requires_grad_(False))
    optimal[1].weight.fill_(-1.0)
    y = pair.sampler(1, move=False)(400)
    x = pair.moved(y)
    found = measured(pair, optimal, x, y)
    assert found["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert found["lower"] == pytest.approx(float((x - y).norm(dim=1).mean()), rel=1e-4)
    assert found["bound"] == pytest.approx(1.0, abs=1e-6)


def test_shifts_grow_from_none():
    random = torch.Generator().manual_seed(0)
    for draw, change, sizes in SHIFTS.values():
        points = draw(50, random)
        assert torch.equal(change(points, 0.0), points)
        ways = [float((change(points, size) - points).abs().sum()) for size in sizes]
        assert 0 < ways[0] < ways[1] < ways[2]


def test_binomial_intervals():
    assert binomial(0, 10) == pytest.approx((0.0, 0.308), abs=1e-3)
    low, high = binomial(25, 500)
    assert low < 0.05 < high
