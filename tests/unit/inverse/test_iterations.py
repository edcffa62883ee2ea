"""Iterations do what their theorem says: residuals, distances, fixed points, rates."""

import math
from fractions import Fraction
from functools import partial
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from taut.inverse import (
    Blur,
    Denoiser,
    Downsampling,
    Inpainting,
    LeastSquares,
    admm,
    composed_averagedness,
    conv_net,
    proximal_gradient,
)
from taut.program import UnprovenError

SHAPE = (1, 6, 5)


def denoiser():
    torch.manual_seed(0)
    return taut.freeze(Denoiser(conv_net(1, width=4, depth=3, dtype=torch.float64)))


def problem(name="blur", dtype=torch.float64):
    torch.manual_seed(1)
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    if name == "blur":
        physics = Blur(torch.tensor([[0.1, 0.7, 0.1], [0.0, 0.1, 0.0]], dtype=torch.float64))
    elif name == "mask":
        physics = Inpainting(torch.rand(SHAPE) > 0.5)
    elif name == "blocks":
        x = torch.rand(2, 1, 6, 4, dtype=torch.float64)
        physics = Downsampling(2)
    else:
        physics = nn.Identity()
    y = physics(x) + 0.05 * torch.randn_like(physics(x))
    return LeastSquares(physics, y.to(dtype)), x.to(dtype)


ITERATIONS = {
    "proximal gradient": partial(proximal_gradient, step=1.2),
    "long steps": partial(proximal_gradient, step=1.9, box=None),
    "ADMM": partial(admm, step=1.2),
    "ADMM, long steps": partial(admm, step=50.0),
}


@pytest.mark.parametrize("name", ["blur", "mask", "blocks", "identity"])
@pytest.mark.parametrize("how", ITERATIONS)
def test_residuals_never_grow(how, name):
    data, x = problem(name)
    start = torch.randn_like(x)
    found = ITERATIONS[how](denoiser(), data, start, sigma=0.1, iterations=40)
    assert found.residuals.shape == (40, 2)
    growth = found.residuals.diff(dim=0)
    assert growth.max() <= 1e-12
    assert found.averaged is not None
    assert found.averaged < 1
    assert "Krasnosel'skii-Mann" in found.theorem


def test_no_distance_to_a_fixed_point_grows_and_the_rate_holds():
    data, x = problem()
    solve = partial(proximal_gradient, denoiser(), data, sigma=0.1, step=1.2)
    limit = solve(x, iterations=250)
    assert limit.residuals[-1].max() < 1e-9
    start = 3 * torch.randn_like(x)
    iterates = [solve(start, iterations=k).image for k in range(1, 12)]
    distances = torch.stack([(z - limit.image).flatten(1).norm(dim=1) for z in (start, *iterates)])
    assert distances.diff(dim=0).max() <= 1e-9
    # The sum of squared residuals is at most a / (1 - a) times the squared first distance.
    found = solve(start, iterations=200)
    total = found.residuals.square().sum(0)
    assert found.averaged is not None
    assert (total <= found.averaged / (1 - found.averaged) * distances[0] ** 2 + 1e-9).all()


def test_limits_do_not_depend_on_the_start_if_the_operator_is_injective():
    data, x = problem()
    for solve in (partial(proximal_gradient, step=1.5, box=None), partial(admm, step=1.5)):
        limits = [
            solve(denoiser(), data, s * torch.randn_like(x), sigma=0.1, iterations=250).image
            for s in (1.0, 10.0)
        ]
        torch.testing.assert_close(*limits, rtol=1e-7, atol=1e-7)


def test_both_have_the_fixed_points_of_one_equation():
    data, x = problem()
    denoise, step = denoiser(), 1.3
    options: dict[str, Any] = {"step": step, "sigma": 0.2, "iterations": 250}
    one = proximal_gradient(denoise, data, x, box=None, **options).image
    other = admm(denoise, data, x, **options).image
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)
    again = denoise(one - step * data.gradient(one), 0.2)
    torch.testing.assert_close(again, one, rtol=1e-8, atol=1e-8)
    # Another step is another equation.
    third = admm(denoise, data, x, **changed(options, {"step": 0.3})).image
    assert (third - one).abs().max() > 1e-3


def changed(options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return options | changes


class Same(nn.Module):
    def forward(self, x, sigma):
        return x


@pytest.mark.parametrize("solve", [partial(proximal_gradient, box=None), admm])
def test_without_a_denoiser_it_is_least_squares(solve):
    data, x = problem()
    found = solve(Same(), data, torch.zeros_like(x), step=1.5, sigma=0.1, iterations=300)
    units = torch.eye(30, dtype=torch.float64).reshape(30, *SHAPE)
    matrix = data.measured(units).reshape(30, 30).T
    expected = torch.linalg.lstsq(matrix, data.y.flatten(1).T).solution.T
    torch.testing.assert_close(found.image.flatten(1), expected, rtol=1e-6, atol=1e-6)


def test_a_box_holds_the_pixels_and_gives_a_fixed_point_for_any_mask():
    data, x = problem("mask")

    class Drifting(nn.Module):  # firmly nonexpansive, without a fixed point
        def forward(self, x, sigma):
            return x + sigma

    free = proximal_gradient(Drifting(), data, x, step=1.0, sigma=0.1, iterations=150, box=None)
    boxed = proximal_gradient(Drifting(), data, x, step=1.0, sigma=0.1, iterations=150)
    assert free.residuals[-1].min() > 0.1
    assert boxed.residuals[-1].max() < 1e-9
    assert boxed.image.min() >= 0
    assert boxed.image.max() <= 1
    assert "converge to a fixed point if there is one" in free.theorem
    assert boxed.theorem.endswith("converge to a fixed point")


def test_a_box_without_an_end_promises_no_fixed_point():
    data, x = problem("mask")
    for box in ((0.0, math.inf), (-math.inf, math.inf), None):
        found = proximal_gradient(denoiser(), data, x, step=1.0, sigma=0.1, box=box, iterations=2)
        assert "Brouwer" not in found.theorem
        assert "if there is one" in found.theorem


@pytest.mark.parametrize("how", ITERATIONS)
def test_single_precision(how):
    data, x = problem(dtype=torch.float32)
    net = denoiser().float()
    found = ITERATIONS[how](net, data, x, sigma=0.1, iterations=50)
    assert found.image.dtype == torch.float32
    assert found.residuals[-1].max() < 2e-2
    assert not found.image.requires_grad
    exact = ITERATIONS[how](net.double(), problem()[0], x.double(), sigma=0.1, iterations=50)
    torch.testing.assert_close(found.image.double(), exact.image, rtol=1e-3, atol=1e-3)


class FakePhysics:
    """What the linear physics of deepinv have in common."""

    def __init__(self, mask):
        self.mask = mask

    def A(self, x, **kwargs):
        return x * self.mask

    def A_adjoint(self, y, **kwargs):
        return y * self.mask

    def prox_l2(self, z, y, gamma, **kwargs):
        return (z + gamma * self.mask * y) / (1 + gamma * self.mask)


@pytest.mark.parametrize("solve", [proximal_gradient, admm])
def test_physics_of_deepinv_are_taken_as_they_are(solve):
    data, x = problem("mask")
    other = LeastSquares(FakePhysics(data.physics.mask), data.y)
    options: dict[str, Any] = {"step": 1.0, "sigma": 0.1, "iterations": 20}
    found = [solve(denoiser(), d, x, **options).image for d in (data, other)]
    torch.testing.assert_close(*found)


class Grows(nn.Module):
    def forward(self, x, sigma):
        return 1.5 * x


def test_what_has_no_proof_is_refused_or_run_without_one():
    data, x = problem("mask")
    for solve in (proximal_gradient, admm):
        with pytest.raises(UnprovenError, match=r"or pass `proved=False`: .* must be at most 1"):
            solve(Grows(), data, x, step=1.0, sigma=0.1)
        plain = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), taut.nn.Times(99.0))
        with pytest.raises(UnprovenError, match="`denoiser` must be proven to be averaged"):
            solve(Denoiser(plain.double()), data, x, step=1.0, sigma=0.1)
    found = proximal_gradient(
        Grows(), data, x, step=1.0, sigma=0.1, proved=False, box=None, iterations=50
    )
    assert (found.averaged, found.theorem) == (None, "")
    assert found.residuals[-1].min() > 100 * found.residuals[0].max()
    assert "nothing proved" in repr(found)


def test_each_iteration_asks_for_what_it_needs():
    data, x = problem("mask")
    torch.manual_seed(0)

    class Loose(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.block = taut.nn.Averaged(conv_net(1, width=4, depth=2), weight).double()

        def forward(self, x, sigma):
            return self.block(x)

    with pytest.raises(UnprovenError, match=r"must be firmly nonexpansive.*got 0\.75-averaged"):
        admm(Loose(0.75), data, x, step=1.0, sigma=0.1)
    assert proximal_gradient(Loose(0.75), data, x, step=1.0, sigma=0.1).residuals[-1].max() < 0.1

    class Flip(nn.Module):
        def forward(self, x, sigma):
            return -x

    with pytest.raises(UnprovenError, match=r"must be averaged \(below 1\).*got 1-averaged"):
        proximal_gradient(Flip(), data, x, step=1.0, sigma=0.1)


@pytest.mark.parametrize("half", [np.float32(0.5), Fraction(1, 2)])
def test_steps_are_numbers_of_any_kind(half, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    data, x = problem("mask")
    for solve in (proximal_gradient, admm):
        plain, other = (
            solve(denoiser(), data, x, step=s, sigma=s, iterations=2).image for s in (0.5, half)
        )
        assert torch.equal(plain, other)
    assert composed_averagedness(half, half) == composed_averagedness(0.5, 0.5)


@pytest.mark.parametrize("constant", [-1.0, math.nan, math.inf])
def test_constants_of_own_data_terms_are_checked(constant, monkeypatch):
    data, x = problem("mask")
    monkeypatch.setattr(LeastSquares, "lipschitz", lambda *_: constant)
    with pytest.raises(ValueError, match=r"`data.lipschitz` must return a finite number >= 0; got"):
        proximal_gradient(denoiser(), data, x, step=1.0, sigma=0.1)


def test_wrong_arguments(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    data, x = problem("mask")
    good: dict[str, Any] = {"step": 1.0, "sigma": 0.1, "iterations": 2}
    with pytest.raises(ValueError, match=r"`step` must be below 2 / L = 2, .*; got 2\.0"):
        proximal_gradient(denoiser(), data, x, **changed(good, {"step": 2.0}))
    for box in ((1.0, 0.0), (0.0, 1.0, 2.0), (None, 1.0), "01", 1.0):
        with pytest.raises(ValueError, match="`box` must be a least and a largest value"):
            proximal_gradient(denoiser(), data, x, **changed(good, {"box": box}))
    for solve in (proximal_gradient, admm):
        with pytest.raises(ValueError, match="`start` must be finite"):
            solve(denoiser(), data, x / 0, **good)
        with pytest.raises(ValueError, match="`start` must hold at least one image"):
            solve(denoiser(), data, x[:0], **good)
        for step in (0.0, -1.0, float("nan"), "a"):
            with pytest.raises(ValueError, match="`step` must be a positive number"):
                solve(denoiser(), data, x, **changed(good, {"step": step}))
        with pytest.raises(ValueError, match="`sigma` must be a positive number"):
            solve(denoiser(), data, x, **changed(good, {"sigma": 0.0}))
        with pytest.raises(ValueError, match="`iterations` must be a positive integer"):
            solve(denoiser(), data, x, **changed(good, {"iterations": 0}))
        with pytest.raises(ValueError, match="`data` must be a data term, such as LeastSquares"):
            solve(denoiser(), data.physics, x, **good)
        with pytest.raises(ValueError, match="`start` must be a float tensor of shape"):
            solve(denoiser(), data, x[0], **good)
