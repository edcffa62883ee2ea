"""Bounds of scores: exact numbers by other routes, attacks, constants of softmax, rounding."""

import math
from decimal import MAX_EMAX, MIN_EMIN, Decimal, getcontext
from fractions import Fraction
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

import taut
from taut.certification import prove
from taut.conformal import AbstractScore, Logit, Margin, ScoreBounds, Softmax

SCORES = {"margin": Margin(), "logit": Logit(), "softmax": Softmax(), "cold": Softmax(0.05)}
ARITHMETICS = ("float64", "float32", "real")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(dtype=torch.float64, classes=5, gain=4.0):
    torch.manual_seed(0)
    return nn.Sequential(
        taut.nn.Linear(7, 8, dtype=dtype), taut.nn.MaxMin(), taut.nn.Linear(8, 8, dtype=dtype),
        taut.nn.MaxMin(), taut.nn.UnitRowLinear(8, classes, dtype=dtype), taut.nn.Times(gain),
    )  # fmt: skip


def linear(dtype=torch.float64):
    model = nn.Linear(6, 4)
    with torch.no_grad():
        model.weight.copy_(draw(4, 6) * torch.tensor([[30.0], [1.0], [1e-3], [0.0]]))
        model.bias.copy_(draw(4, seed=1))
    return model.to(dtype)


def plain_score(name, z):
    """The score of each label as papers write it, by a loop."""
    rows = []
    for y in range(z.shape[1]):
        others = torch.cat([z[:, :y], z[:, y + 1 :]], 1)
        if name == "margin":
            rows.append(others.amax(1) - z[:, y])
        elif name == "logit":
            rows.append(-z[:, y])
        else:
            apart = (others - z[:, y : y + 1]) / SCORES[name].temperature
            rows.append(apart.logsumexp(1).exp())
    return torch.stack(rows, 1)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", SCORES)
def test_bounds_with_eps_0_enclose_the_score(name, arithmetic):
    dtype = torch.float64 if arithmetic != "float32" else torch.float32
    model, x = net(dtype), draw(300, 7, seed=2).to(dtype)
    bounds = ScoreBounds(prove(model, (7,), arithmetic=arithmetic), SCORES[name])
    exact = plain_score(name, taut.freeze(model.eval()).double()(x.double())).detach()
    low, high, room = bounds.below(x), bounds.above(x), 1e-11 * exact.abs()  # of the loop
    assert ((low <= exact + room) & (exact - room <= high)).all()
    share = 1e-2 if arithmetic == "float32" else 1e-9
    assert ((high - low) <= share * (1 + exact.abs())).all()


def exact_logits(model, x):
    weight, bias = model.weight.tolist(), model.bias.tolist()
    return [
        [
            sum(Fraction(w) * Fraction(a) for w, a in zip(row, point, strict=True)) + Fraction(b)
            for row, b in zip(weight, bias, strict=True)
        ]
        for point in x.tolist()
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SCORES)
def test_exact_scores_lie_between_the_bounds(name, dtype):
    """Logits in rationals, exponentials in 60 decimal digits; inputs of very different scales."""
    getcontext().prec, getcontext().Emax, getcontext().Emin = 60, MAX_EMAX, MIN_EMIN
    model, arithmetic = linear(dtype), str(dtype).removeprefix("torch.")
    x = torch.cat([draw(6, 6, seed=3), 1e4 * draw(3, 6, seed=4), 1e-6 * draw(3, 6, seed=5)])
    bounds = ScoreBounds(prove(model, (6,), arithmetic=arithmetic), SCORES[name])
    low, high = bounds.below(x.to(dtype)).tolist(), bounds.above(x.to(dtype)).tolist()
    for z, below, above in zip(exact_logits(model, x.to(dtype)), low, high, strict=True):
        for y in range(4):
            rises = [z[j] - z[y] for j in range(4) if j != y]
            if name == "margin":
                exact = max(rises)
            elif name == "logit":
                exact = -z[y]
            else:
                t = Fraction(SCORES[name].temperature)
                quotients = [r / t for r in rises]
                terms = [(Decimal(q.numerator) / Decimal(q.denominator)).exp() for q in quotients]
                exact = sum(terms)
                assert Decimal(below[y]) <= exact <= Decimal(above[y])
                continue
            assert Fraction(below[y]) <= exact <= Fraction(above[y])


def attacked(model, x, y, eps, name, steps=15):
    """A point within eps that raises the score of a label, by gradient steps."""
    moved = x.clone()
    for _ in range(steps):
        moved.requires_grad_()
        score = plain_score(name, model(moved))[:, y]
        climbed = score.clamp_min(1e-300).log() if name in ("softmax", "cold") else score
        (slope,) = torch.autograd.grad(climbed.sum(), moved)
        slope = slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-30)
        delta = moved.detach() - x + 0.5 * eps * slope
        moved = x + delta * (eps / delta.norm(dim=1, keepdim=True)).clamp(max=1) * (1 - 1e-9)
    return moved


@pytest.mark.parametrize("name", SCORES)
def test_no_attack_moves_a_score_beyond_its_bounds(name):
    """The bound from the attacked input is below the clean score, so no label is pushed out."""
    model, x, eps = net(), draw(40, 7, seed=6), 0.3
    bounds, shares = ScoreBounds(prove(model, (7,)), SCORES[name]), []
    clean, most = plain_score(name, model(x)), bounds.above(x, eps)
    for y in range(5):
        moved = attacked(model, x, y, eps, name)
        assert (taut.l2_distance_upper(moved, x) <= eps).all()
        score = plain_score(name, model(moved))[:, y]
        assert (bounds.below(moved, eps)[:, y] <= clean[:, y] * (1 + 1e-12)).all()
        assert (score <= most[:, y] * (1 + 1e-12)).all()
        shares.append(((score - clean[:, y]) / (most[:, y] - clean[:, y])).max())
    assert max(shares) > 0.5  # the bounds are not idle


def test_constants_of_pairs_are_sharper_than_that_of_all_logits():
    model, x, eps = net(), draw(30, 7, seed=7), 0.5
    certificate = prove(model, (7,))
    pairs = certificate.bound.pairwise
    assert pairs is not None
    whole = 2**0.5 * certificate.bound.value
    z = model(x)
    crude = plain_score("margin", z) - whole * eps
    fine = ScoreBounds(certificate, Margin()).below(x, eps)
    assert (fine >= crude - 1e-9).all()
    assert (fine - crude).mean() > 0.1
    # Exactly: the largest over classes of the difference less its own slack.
    by_loop = torch.stack(
        [
            torch.stack([z[:, j] - z[:, y] - pairs[y, j] * eps for j in range(5) if j != y]).amax(0)
            for y in range(5)
        ],
        1,
    )
    torch.testing.assert_close(fine, by_loop, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        ScoreBounds(certificate, Logit()).below(x, eps), -z - 4 * eps, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_constants_that_the_docs_state_for_softmax_hold_and_are_reached(temperature):
    """Jacobians of random and extreme logits; the worst case is p = 1/2 against one class."""

    def probability(z):
        return (z / temperature).softmax(0)[0]

    def odds(z):
        return (z[1:] / temperature).logsumexp(0) - z[0] / temperature

    logits = [temperature * s * draw(6, seed=i) for i in range(30) for s in (0.1, 1, 5)]
    worst = torch.full((6,), -60 * temperature, dtype=torch.float64)
    worst[:2] = 0
    largest = {probability: 0.0, odds: 0.0}
    for z in (*logits, worst):
        for function in largest:
            slope = torch.autograd.functional.jacobian(function, z).norm().item()
            largest[function] = max(largest[function], slope * temperature)
            p = probability(z).item()
            if function is probability:
                assert slope * temperature <= 2**0.5 * p * (1 - p) * (1 + 1e-9)
    assert largest[probability] == pytest.approx(2**0.5 / 4, rel=1e-9)
    assert largest[odds] == pytest.approx(2**0.5, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_bounds_of_odds_are_sharper_than_the_constant_of_the_probability(temperature):
    model, x, eps = taut.nn.Linear(6, 4, dtype=torch.float64), draw(50, 6, seed=8), 0.4
    bounds = ScoreBounds(prove(model, (6,)), Softmax(temperature))
    largest = 1 / (1 + bounds.below(x, eps))  # of p_y within eps
    p = (model(x) / temperature).softmax(1)
    assert (largest >= p).all()
    assert (largest <= p + 2**0.5 / 4 / temperature * eps + 1e-9).all()


def test_a_score_of_your_own_is_one_class():
    class Mean(AbstractScore):
        def __call__(self, differences):
            return differences[..., :-1].clamp(-9, 9).sum(-1)

    model, x = net(), draw(10, 7)
    bounds = ScoreBounds(prove(model, (7,)), Mean())
    low, exact, high = bounds.below(x, 0.1), bounds.below(x), bounds.above(x, 0.1)
    assert ((low <= exact) & (exact <= high) & (low < high)).any(1).all()


def test_scores_of_what_may_overflow_are_infinite():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.fill_(1e30)
    x = torch.tensor([[1.0, 1.0], [1e8, 1e8]])
    for score in SCORES.values():
        bounds = ScoreBounds(prove(model, (2,), arithmetic="float32"), score)
        low, high = bounds.below(x), bounds.above(x)
        assert (high[1] == math.inf).all()
        assert (low[1] <= 0).all()
        assert not (low.isnan() | high.isnan()).any()


def test_models_with_answers_at_many_places_are_refused():
    certificate = prove(taut.nn.Conv2d(1, 3, 3), (1, 5, 5))
    with pytest.raises(ValueError, match="one answer an image"):
        ScoreBounds(certificate, Margin())


def test_wrong_temperatures_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    wrong: list[Any] = [0, -1, math.inf, math.nan, "1", True]
    for temperature in wrong:
        with pytest.raises(ValueError, match="`temperature` must be a positive number"):
            Softmax(temperature)
