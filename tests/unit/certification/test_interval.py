"""Intervals of outputs: closed forms, attacks, exact rationals, rounding, refusals."""

import math
from fractions import Fraction
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

import taut
from taut.certification import output_constants, prove

ARITHMETICS = ("float64", "float32", "real")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(outputs=4, features=6, dtype=torch.float64):
    model = nn.Linear(features, outputs)
    with torch.no_grad():
        model.weight.copy_(draw(outputs, features) * torch.tensor([[1e3], [1.0], [1e-3], [0.0]]))
        model.bias.copy_(draw(outputs, seed=1))
    return model.to(dtype)


def net(dtype=torch.float64, scale=3.0):
    torch.manual_seed(0)
    model = nn.Sequential(
        taut.nn.Linear(7, 8, dtype=dtype), taut.nn.MaxMin(), taut.nn.Linear(8, 8, dtype=dtype),
        taut.nn.MaxMin(), taut.nn.Linear(8, 3, dtype=dtype),
    )  # fmt: skip
    return taut.nn.scaled(model, scale)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_interval_of_a_linear_model_is_its_range(arithmetic):
    """Each output moves by at most the norm of its own row, and no less is proven."""
    dtype = torch.float32 if arithmetic == "float32" else torch.float64
    model, x, eps = linear(dtype=dtype), draw(300, 6, seed=2).to(dtype), 0.25
    found = taut.certified_interval(model, x, eps, arithmetic=arithmetic)
    z, norms = model(x).double(), model.weight.double().norm(dim=1)
    room = 0.05 if arithmetic == "float32" else 1e-9  # the largest row has norm 2e3
    for end, exact in ((found.lower, z - eps * norms), (found.upper, z + eps * norms)):
        assert (end - exact).abs().max() < room
    assert (found.lower <= z - eps * norms).all()
    assert (found.upper >= z + eps * norms).all()
    torch.testing.assert_close(found.constants, norms, rtol=1e-9, atol=1e-12)


def climb(model, x, eps, output, sign, steps=12):
    """The most, or least, of an output that gradient steps find; all points on the way."""
    moved = x.clone()
    for _ in range(steps):
        moved.requires_grad_()
        value = model(moved)
        yield moved.detach(), value.detach()
        (slope,) = torch.autograd.grad(sign * value[:, output].sum(), moved)
        slope = slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-30)
        delta = moved.detach() - x + 0.5 * eps * slope
        length = delta.norm(dim=1, keepdim=True)
        moved = x + delta * (eps / length).clamp(max=1) * (1 - 1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-5])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_no_attack_leaves_the_interval_and_some_come_near(arithmetic, scale):
    dtype = torch.float64 if arithmetic == "real" else torch.float32
    model, x, eps = net(dtype), (scale * draw(40, 7, seed=3)).to(dtype), 0.3 * scale
    found = taut.certified_interval(model, x, eps, arithmetic=arithmetic)
    run = model if arithmetic != "float64" else taut.freeze(model.eval()).double()
    start = x.double() if arithmetic == "float64" else x
    reached = []
    for output in range(3):
        for sign in (1, -1):
            points = list(climb(run, start, eps, output, sign))
            for _, value in points:
                room = 1e-13 * max(1, scale) if arithmetic == "real" else 0.0
                assert (value.double() >= found.lower - room).all()
                assert (value.double() <= found.upper + room).all()
            moved, value = points[-1]
            assert (taut.l2_distance_upper(moved, start) <= eps).all()
            shift = sign * (value.double() - found.prediction)[:, output]
            reached.append((shift / (found.constants[output] * eps)).max())
    assert min(reached) > 0.7


def test_exact_values_at_the_ends_of_the_ball_are_inside():
    """In rationals: inputs at distance eps along each row, of either side."""
    model, x = linear(), draw(5, 6, seed=4)
    eps = Fraction(1, 8)
    found = taut.certified_interval(model, x, "1/8")
    weight = [[Fraction(w) for w in row] for row in model.weight.tolist()]
    for n, point in enumerate(x.tolist()):
        for i, row in enumerate(weight):
            norm = Fraction(math.nextafter(math.sqrt(sum(w * w for w in row)), math.inf))
            for sign in (1, -1):
                step = [sign * eps * w / norm if norm else Fraction(0) for w in row]
                assert sum(s * s for s in step) <= eps**2
                at = [Fraction(a) + s for a, s in zip(point, step, strict=True)]
                value = sum(w * a for w, a in zip(row, at, strict=True))
                value += Fraction(model.bias[i].item())
                assert Fraction(found.lower[n, i].item()) <= value
                assert value <= Fraction(found.upper[n, i].item())


def test_float32_interval_holds_for_any_order_of_summation():
    """With eps 0 only rounding is left: batches, threads and permuted sums give other digits."""
    model, x = net(torch.float32), 1e3 * draw(64, 7, seed=5).float()
    found = taut.certified_interval(model, x, 0, arithmetic="float32")
    assert (found.upper > found.lower).all()
    wide = taut.certified_interval(model, x, 0, arithmetic="float64")
    assert ((found.upper - found.lower) > 1e6 * (wide.upper - wide.lower)).all()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    inner, scale = model
    first, *others = inner.children()
    assert isinstance(first, taut.nn.Linear)
    rest = nn.Sequential(*others, scale)
    for batch in (1, 3, 64):
        for part, low, high in zip(
            x.split(batch), found.lower.split(batch), found.upper.split(batch), strict=True
        ):
            permuted = nn.functional.linear(part[:, order], first.weight[:, order], first.bias)
            for value in (model(part), rest(permuted)):
                assert ((value >= low) & (value <= high)).all()


def test_constants_of_single_outputs_are_those_of_their_rows():
    torch.manual_seed(1)
    head = nn.Linear(8, 3)
    model = nn.Sequential(taut.nn.Linear(7, 8), taut.nn.MaxMin(), head, taut.nn.Times(2.0))
    found = output_constants(prove(model, (7,)))
    torch.testing.assert_close(found, 2 * head.weight.double().norm(dim=1), rtol=1e-5, atol=0)
    whole = prove(model, (7,)).composed.lipschitz
    assert (found <= whole).all()
    assert found.min() < 0.8 * whole
    # Not behind an activation: its outputs are no rows.
    both = output_constants(prove(nn.Sequential(*model, taut.nn.MaxMin()), (7,)))
    assert (both == both[0]).all()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_outputs_of_any_shape(shape):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, math.prod(shape), dtype=torch.float64)

        def forward(self, x):
            return self.inner(x).reshape(-1, *shape)

    x = draw(4, 6)
    found = taut.certified_interval(Model(), x, 0.1)
    assert found.lower.shape == found.upper.shape == (4, *shape)
    assert found.constants.shape == shape
    assert ((found.lower < found.prediction) & (found.prediction < found.upper)).all()


def test_interval_is_the_whole_line_where_a_number_may_overflow():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(1e30)
    x = torch.tensor([[1.0, 1.0], [1e8, 1e8]])
    found = taut.certified_interval(model, x, 1.0, arithmetic="float32")
    assert found.upper[0].isfinite()
    assert found.upper[1] == -found.lower[1] == math.inf
    far = taut.certified_interval(model, x[:1], 1e9, arithmetic="float32")
    assert far.upper == math.inf


def test_it_says_what_it_is():
    text = repr(taut.certified_interval(net(), draw(3, 7), "1/4"))
    assert "3 inputs within 1/4" in text
    assert "float64 run of the exported weights" in text


def test_wrong_arguments_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    model, x = linear(), draw(3, 6)
    wrong: list[Any] = [-1, "x", [0.1, 0.2], math.nan]
    for eps in wrong:
        with pytest.raises(ValueError, match="`eps` must be"):
            taut.certified_interval(model, x, eps)
    with pytest.raises(ValueError, match=r"must be torch\.float64"):
        taut.certified_interval(model, x.float(), 0.1)
    with pytest.raises(ValueError, match="must be finite"):
        taut.certified_interval(model, x / 0, 0.1)
    with pytest.raises(NotImplementedError):
        taut.certified_interval(nn.LSTM(6, 2, dtype=torch.float64), x, 0.1)
