"""Rays never step through the surface: held against fine marching and exact numbers."""

import math
from fractions import Fraction

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import taut
from taut import sdf
from taut.program import UnprovenError
from taut.wasserstein import critics


def rays(count: int, n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """From a sphere of radius 3 to points around the centre."""
    generator = torch.Generator().manual_seed(5)
    starts = torch.randn(count, n, generator=generator, dtype=torch.float64)
    origins = 3 * starts / starts.norm(dim=1, keepdim=True)
    aims = torch.randn(count, n, generator=generator, dtype=torch.float64) - origins
    return origins.to(dtype), (aims / aims.norm(dim=1, keepdim=True)).to(dtype)


def marched(f: nn.Module, origins: Tensor, directions: Tensor, until: Tensor) -> Tensor:
    """The least sign * f on 2,000 points of each ray up to a parameter, in float64."""
    wide = taut.freeze(f).double()
    shares = torch.linspace(0, 1, 2000, dtype=torch.float64)
    least = []
    for o, d, t in zip(origins.double(), directions.double(), until, strict=True):
        with torch.no_grad():
            values = wide(o + (shares * t)[:, None] * d)[:, 0]
        least.append((values * values[0].sign()).min())
    return torch.stack(least)


def bent(n: int, dtype: torch.dtype) -> nn.Module:
    """A random net with a zero level set near the centre."""
    torch.manual_seed(3)
    net = critics.dense((n,), width=16, depth=3).double()
    with torch.no_grad():
        for _, bias in [p for p in net.named_parameters() if p[0].endswith("bias")]:
            bias.normal_(std=0.5)
        net[-1].bias.copy_(-net(torch.zeros(1, n, dtype=torch.float64))[0])
    return net.to(dtype)


def steep(n: int, dtype: torch.dtype) -> nn.Module:
    """A net of torch, of a constant far from 1."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(n, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    return net.to(dtype)


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("make", [bent, steep])
def test_no_ray_steps_through_the_surface(make, n, arithmetic):
    dtype = getattr(torch, arithmetic)
    f = make(n, dtype)
    origins, directions = rays(60, n, dtype)
    found = sdf.sphere_trace(f, origins, directions, far=6.0, arithmetic=arithmetic)
    until = found.distance.clamp(max=6.0)
    assert (marched(f, origins, directions, until * (1 - 1e-12)) > -1e-13).all()
    assert not (found.hit & found.clear).any()
    if make is bent:
        assert found.clear.sum() > 5
        assert found.hit.sum() > 5
    values = f(found.points.to(dtype))[:, 0]
    assert (values[found.hit].abs() < 1.1e-3).all()
    # Rays that were hit have a zero, or nearly one, soon behind that.
    assert (found.distance[found.hit] < 6).all()
    assert (found.steps <= 256).all()


def test_from_the_inside_rays_stop_at_the_same_surface():
    f = nn.Linear(3, 1, dtype=torch.float64)  # a plane
    with torch.no_grad():
        f.weight.copy_(torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64))
        f.bias.fill_(-0.5)
    ways = [[0.6, 0.8, 0.0], [-0.6, -0.8, 0.0], [0.0, 0.0, 2.0]]
    directions = torch.tensor(ways, dtype=torch.float64)
    origins = torch.zeros(3, 3, dtype=torch.float64)  # f = -0.5
    found = sdf.sphere_trace(f, origins, directions, far=4.0, tolerance=1e-9)
    assert found.hit.tolist() == [True, False, False]
    assert found.clear.tolist() == [False, True, True]
    assert found.distance[0] == pytest.approx(0.5, abs=1e-8)
    assert found.distance[0] < 0.5
    torch.testing.assert_close(found.points[1], 4 * directions[1])


def cancelling(dtype: torch.dtype) -> nn.Module:
    """f(x) = x_0 - 0.3 by way of 10,000, so that float32 is off by a thousandth."""
    net = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)).to(dtype)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        net[0].bias.fill_(10_000.0)
        net[1].weight.fill_(1.0)
        net[1].bias.fill_(-10_000.3)
    return net


def zero_of(net: nn.Module) -> Fraction:
    """Where f is 0 on the first axis, in exact numbers."""
    return -(Fraction(net[0].bias.item()) + Fraction(net[1].bias.item()))


def test_rounding_is_counted():
    """Steps of the computed f alone go through the surface here; ours stay before it."""
    net = cancelling(torch.float32)
    starts = torch.linspace(0.9, 1.1, 101)[:, None] * torch.tensor([[1.0, 0.0]])
    directions = torch.tensor([[-1.0, 0.0]]).expand(101, 2)
    exact = [Fraction(x) - zero_of(net) for x in starts[:, 0].tolist()]
    with torch.no_grad():
        naive = net(starts)[:, 0].tolist()
    assert sum(Fraction(t) > e for t, e in zip(naive, exact, strict=True)) > 10
    for arithmetic in ("float32", "float64"):
        found = sdf.sphere_trace(net, starts, directions, tolerance=0.0, arithmetic=arithmetic)
        reached = found.distance.tolist()
        assert all(Fraction(t) < e for t, e in zip(reached, exact, strict=True))
        gap = max(float(e) - t for t, e in zip(reached, exact, strict=True))
        assert gap < (0.02 if arithmetic == "float32" else 1e-9)
        assert not found.clear.any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_units_and_lengths_of_directions_do_not_matter(scale):
    f = bent(2, torch.float64)
    origins, directions = rays(30, 2)
    model = nn.Sequential(f, taut.nn.Times(scale))
    one = sdf.sphere_trace(f, origins, directions, far=6.0, tolerance=1e-6)
    other = sdf.sphere_trace(
        model, origins, directions / scale, far=6.0 * scale, tolerance=1e-6 * scale
    )
    assert torch.equal(one.hit, other.hit)
    assert torch.equal(one.clear, other.clear)
    torch.testing.assert_close(one.distance[one.hit] * scale, other.distance[one.hit])


def test_a_frozen_net_in_float32_and_its_numbers_of_numpy(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    f = taut.freeze(bent(2, torch.float32))
    origins, directions = rays(20, 2, torch.float32)
    few = sdf.sphere_trace(f, origins, directions, far=6, steps=np.int64(2))
    assert few.steps.max() == 2
    assert few.points.dtype == torch.float32
    undecided = ~few.hit & ~few.clear
    assert undecided.any()
    assert (few.distance[undecided] > 0).all()
    none = sdf.sphere_trace(f, origins[:0], directions[:0])
    assert none.distance.shape == (0,)


def test_a_constant_has_no_zero():
    f = nn.Linear(2, 1)
    with torch.no_grad():
        f.weight.zero_(), f.bias.fill_(2.0)
    found = sdf.sphere_trace(f, *rays(3, 2, torch.float32), far=1e30)
    assert found.clear.all()


def test_normals_are_gradients_of_norm_1():
    f = bent(3, torch.float64)
    x = torch.randn(10, 3, dtype=torch.float64)
    for point, normal in zip(x, sdf.normals(f, x), strict=True):
        gradient = torch.autograd.functional.jacobian(f, point[None])[0, 0, 0]
        torch.testing.assert_close(normal, gradient / gradient.norm())
    flat = nn.Linear(3, 1)
    nn.init.zeros_(flat.weight)
    assert (sdf.normals(flat, x.float()) == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_normals_of_tiny_and_huge_gradients(scale, monkeypatch):
    f = nn.Sequential(bent(3, torch.float64).float(), taut.nn.Times(scale))
    normals = sdf.normals(f, torch.randn(10, 3))
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(10))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="`points` must be a floating-point tensor; got torch"):
        sdf.normals(f, torch.ones(2, 3, dtype=torch.int64))


def test_a_slope_that_underflows_is_none_of_a_constant():
    f = nn.Linear(2, 1, dtype=torch.float64)
    with torch.no_grad():
        f.weight.copy_(torch.tensor([[1e-200, 0.0]], dtype=torch.float64))
        f.bias.fill_(-1e-43)
    # On this ray f is 1e-350 t - 1e-43, which is 0 at t = 1e307.
    ray = torch.tensor([[0.0, 0.0], [1e-150, 0.0]], dtype=torch.float64).split(1)
    found = sdf.sphere_trace(f, ray[0], ray[1], far=1e308, tolerance=0.0)
    assert found.distance <= 1e307
    assert not found.clear


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x * x).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origins": torch.zeros(2, 3)}, r"must both be \(rays, n\); got \(2, 3\) and \(2, 2\)"),
        ({"directions": torch.zeros(2, 2)}, "`directions` must not be 0; got a row of zeros"),
        ({"origins": torch.full((2, 2), math.nan)}, "must be finite; got NaN or Inf"),
        ({"origins": np.zeros((2, 2))}, "`origins` must be a torch.Tensor; got numpy.ndarray"),
        ({"far": -1.0}, "`far` must be a finite number >= 0; got -1.0"),
        ({"tolerance": math.inf}, "`tolerance` must be a finite number >= 0; got inf"),
        ({"steps": 0}, "`steps` must be a positive integer; got 0"),
        ({"arithmetic": "real"}, '`arithmetic` must be "float64" or "float32"; got \'real\''),
        ({"model": nn.Linear(2, 2)}, r"`model` must give one number a point; its outputs are \(2,"),
    ],
)
def test_wrong_arguments_are_refused(changes, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    given = {
        "model": nn.Linear(2, 1), "origins": torch.ones(2, 2), "directions": torch.ones(2, 2)
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        sdf.sphere_trace(**(given | changes))


def test_unproven_models_are_refused():
    with pytest.raises(UnprovenError):
        sdf.sphere_trace(Cube(), torch.ones(1, 2), torch.ones(1, 2))
