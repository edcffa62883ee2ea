"""Radii until the label leaves the k highest classes: brute force, exact fractions, attacks."""

import itertools
import math
from fractions import Fraction

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from taut import threats
from taut.certification import constant_of
from taut.program import LipschitzBound


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance_to_leave(z, y, k):
    """The l2 distance to logits of which k others are at least that of y: over sets and levels."""
    others = [j for j in range(len(z)) if j != y]
    best = math.inf
    for chosen in itertools.combinations(others, k):
        levels = np.linspace(min(z.min(), z[y]), z[y], 20001)
        raised = sum(np.maximum(levels - z[j], 0) ** 2 for j in chosen)
        best = min(best, float(np.sqrt((z[y] - levels) ** 2 + raised).min()))
    return best


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_radius_is_the_distance_in_logits(k):
    logits = draw(12, 6, seed=k)
    logits[0] = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    labels = torch.arange(12) % 6
    for bound in (1.0, 0.25):
        found = taut.certified_top_k(logits, labels, bound, k)
        for i in range(12):
            exact = distance_to_leave(logits[i].numpy(), labels[i].item(), k) / bound
            # Levels of a grid give more than the least, by little.
            assert exact * (1 - 1e-6) - 1e-12 <= found[i].item() <= exact * (1 + 1e-14)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_equal_gaps_are_a_fraction_and_rounded_down(k):
    """Gaps g: the label falls by g k / (k + 1), each of k others rises by g / (k + 1)."""
    for gap in (1.0, 0.3, 1e-7, 1e12, 0.1 + 2**-40):
        logits = torch.tensor([[gap, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        found = Fraction(taut.certified_top_k(logits, torch.tensor([0]), 1.0, k).item())
        exact = Fraction(gap) ** 2 * k / (k + 1)
        assert exact * (1 - Fraction(1, 10**12)) <= found**2 <= exact


@pytest.mark.parametrize("k", [1, 2, 3])
def test_radii_grow_with_k_from_the_certified_radius(k):
    logits, labels = draw(200, 5), torch.arange(200) % 5
    pairs = taut.lipschitz_bound(taut.nn.UnitRowLinear(7, 5).double(), (7,))
    for bound in (0.7, pairs, LipschitzBound(2.0)):
        plain = taut.certified_radius(logits, labels, bound)
        found = taut.certified_top_k(logits, labels, bound, k)
        assert (found >= plain).all()
        if k == 1:
            assert torch.equal(found, plain)
        else:
            assert (found >= taut.certified_top_k(logits, labels, bound, k - 1)).all()
        among = (logits > logits.gather(1, labels[:, None])).sum(1) < k
        assert torch.equal(found > 0, among)


def test_head_gives_the_radii_of_its_rows():
    rows, logits, labels = draw(4, 6), draw(50, 4, seed=1), torch.arange(50) % 4
    targeted = taut.targeted_radius(logits, labels, 2.0, head=rows)
    assert torch.equal(targeted.amin(1), taut.certified_radius(logits, labels, 2.0, head=rows))
    for i, j in itertools.product(range(50), range(4)):
        y = labels[i].item()
        gap = (logits[i, y] - logits[i, j]).item()
        expected = max(gap, 0) / (2 * (rows[y] - rows[j]).norm().item()) if j != y else math.inf
        assert targeted[i, j].item() == pytest.approx(expected, rel=1e-9)
    second = targeted.sort(1).values[:, 1]
    assert torch.equal(taut.certified_top_k(logits, labels, 2.0, 2, head=rows), second)


def test_numbers_that_are_not_finite_and_ties():
    logits = torch.tensor([[1.0, math.nan, 0.0], [2.0, 2.0, 0.0], [math.inf, 0.0, 0.0]])
    labels = torch.zeros(3, dtype=torch.int64)
    assert taut.certified_top_k(logits, labels, 1.0, 1).tolist() == [0.0, 0.0, 0.0]
    # Of two equal logits either may be the higher one, but both are among the two highest.
    assert taut.certified_top_k(logits, labels, 1.0, 2)[1] == pytest.approx(math.sqrt(2.0))
    assert taut.certified_top_k(logits, labels, 1.0, 2)[[0, 2]].tolist() == [0.0, 0.0]
    assert taut.certified_top_k(logits, labels, 0.0, 2)[1] == math.inf


@pytest.mark.parametrize("k", [0, 3, 1.5, True, None])
def test_wrong_k_is_refused(k, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="`k` must be"):
        taut.certified_top_k(torch.zeros(1, 3), torch.tensor([0]), 1.0, k)


def test_wrong_heads_and_labels_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    logits, labels = torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(ValueError, match="`head` must be a matrix of 3 rows"):
        taut.certified_top_k(logits, labels, 1.0, 1, head=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`labels` must be in"):
        taut.targeted_radius(logits, labels + 3, 1.0)
    for dtype in (torch.uint8, torch.bool, torch.float32):
        with pytest.raises(ValueError, match="`labels` must be int64 or int32 classes; got torch"):
            taut.certified_top_k(logits, labels.to(dtype), 1.0, 2)


def test_sums_of_huge_gaps_make_no_infinite_radius():
    logits = torch.tensor([[1e308, 0.0, 0.0, 0.0]], dtype=torch.float64)
    for k in (2, 3):  # the distance to equal logits is 1e308 * sqrt(k / (k + 1))
        radius = taut.certified_top_k(logits, torch.tensor([0]), 1.0, k)
        assert 7e307 < radius <= 1e308 * math.sqrt(k / (k + 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "threat", [threats.L2(), threats.Linf(), threats.L1()], ids=lambda t: t.kind
)
def test_no_attack_puts_k_classes_ahead_within_the_radius(threat, dtype):
    torch.manual_seed(0)
    layers = taut.nn.Linear(6, 12), taut.nn.MaxMin(), taut.nn.Linear(12, 5)
    model = nn.Sequential(*layers).to(dtype)
    x = draw(20, 6).to(dtype)
    labels = model(x).argmax(1)
    widest = 0
    for k in (1, 2, 3):
        found = threats.certify(model, x, labels, threat, top_k=k)
        assert found.clean_accuracy == 1.0
        assert (found.radius >= found.radii.sort(1).values[:, k - 1]).all()
        widest = max(widest, int((found.radius > found.radii.sort(1).values[:, k - 1]).sum()))
        sizes = (0.99999 * found.radius)[:, None].to(dtype)
        for seed in range(200):
            z = draw(20, 6, seed=seed).to(dtype)
            if threat.kind == "linf":
                z = z.sign()
            elif threat.kind == "l1":
                z = nn.functional.one_hot(z.abs().argmax(1), 6) * z.sign()
            else:
                z = z / z.norm(dim=1, keepdim=True)
            logits = found.certificate.logits(x + sizes * z)
            ahead = (logits >= logits.gather(1, labels[:, None])).sum(1) - 1
            assert (ahead < k).all()
    assert widest or threat.kind != "l2"


def test_a_constant_that_is_a_ratio_is_rounded_up(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    just_above = Fraction(1, 3) - Fraction(1, 10**30)  # of 1/3 as a float, which lies below 1/3
    assert constant_of(just_above) == math.nextafter(1 / 3, 1)
    assert constant_of(Fraction(1, 4)) == constant_of(0.25) == 0.25
    for wrong in (None, "one", -1.0, math.nan, Fraction(-1, 3)):
        with pytest.raises(ValueError, match="`bound` must be a number >= 0; got"):
            constant_of(wrong)
