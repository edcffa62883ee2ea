"""The certified AUROC against exact rationals, over all pairs, and against attacks."""

import json
import math
from fractions import Fraction
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import nn

import taut
from taut.anomaly import auroc, certified_auroc, certify
from taut.attacks import PGD


def exact_share(inliers, outliers, eps, bound=1.0):
    """Share of the pairs that keep their order, in rational arithmetic."""
    reach = 2 * Fraction(eps) * Fraction(bound)
    pairs = [Fraction(a) - Fraction(b) > reach for a in inliers.tolist() for b in outliers.tolist()]
    return Fraction(sum(pairs), len(pairs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_share_of_pairs(dtype, scale):
    random = torch.Generator().manual_seed(0)
    for count, others in ((1, 1), (7, 13), (31, 5)):
        inliers = (torch.randn(count, generator=random, dtype=torch.float64) + 1) * scale
        outliers = torch.randn(others, generator=random, dtype=torch.float64) * scale
        inliers, outliers = inliers.to(dtype), outliers.to(dtype)
        for eps in ("0", "8/255", "1/3", "2"):
            eps = Fraction(eps) * Fraction(scale)
            found = certified_auroc(inliers, outliers, eps, bound=0.7)
            exact = exact_share(inliers, outliers, eps, 0.7)
            assert Fraction(found) <= exact
            assert math.isclose(found, exact, rel_tol=1e-15)
        assert auroc(inliers, outliers) == certified_auroc(inliers, outliers, 0)


def test_pairs_at_the_very_edge():
    """A pair counts only if it is apart by more than both moves, however near that is."""
    for eps in (0.1, 0.25, 1 / 3, 1e-17, 8 / 255):
        below = torch.tensor([0.1], dtype=torch.float64)
        above = below + 2 * eps
        for _ in range(3):
            exact = exact_share(above, below, eps)
            assert certified_auroc(above, below, eps) <= exact
            above = torch.nextafter(above, torch.full_like(above, math.inf))
        far = below + 2 * eps + 1e-15
        assert certified_auroc(far, below, eps) == 1.0


def test_ties_count_against():
    ties = torch.zeros(4)
    assert auroc(ties, ties) == certified_auroc(ties, ties, 0) == 0.0
    assert certified_auroc(torch.tensor([1.0]), torch.tensor([0.0]), "1/2") == 0.0


def test_the_share_is_rounded_down():
    inliers, outliers = torch.tensor([1.0]), torch.tensor([0.0, 2.0, 2.0])
    assert Fraction(auroc(inliers, outliers)) <= Fraction(1, 3)
    assert Fraction(auroc(torch.ones(1), torch.tensor([0.0] * 2 + [2.0]))) <= Fraction(2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([math.nan]), torch.zeros(1), 0.1), "`inliers` must hold numbers"),
        ((torch.zeros(1), torch.tensor([math.nan]), 0.1), "`outliers` must hold numbers"),
        ((torch.zeros(0), torch.zeros(1), 0.1), "`inliers` must be one score a sample"),
        ((torch.zeros(1), torch.zeros(1), -0.1), "`eps` must be"),
        ((torch.zeros(1), torch.zeros(1), math.nan), "`eps` must be"),
        ((torch.zeros(1), torch.zeros(1), 0.1, 0.0), "`bound` must be a positive number"),
        ((torch.zeros(1), torch.zeros(1), 0.1, math.inf), "`bound` must be a positive number"),
        ((torch.zeros(1), torch.zeros(1), 0.1, math.nan), "`bound` must be a number >= 0; got nan"),
        ((torch.zeros(1), torch.zeros(1), 0.1, None), "`bound` must be a number >= 0; got None"),
        ((torch.zeros(1), torch.zeros(1), 0.1, -1.0), "`bound` must be a number >= 0; got -1"),
    ],
)
def test_refused_scores(arguments, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=message):
        certified_auroc(*arguments)


def detector(dtype=torch.float32, inputs=(1, 7, 5)):
    torch.manual_seed(0)
    model = nn.Sequential(
        taut.nn.Conv2d(1, 4, 3), taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(140, 1)
    )
    return model.to(dtype)


def samples(dtype=torch.float32, count=12):
    random = torch.Generator().manual_seed(1)
    low = torch.rand(count, 1, 7, 5, generator=random)
    high = 0.6 * torch.rand(count, 1, 7, 5, generator=random) + 0.3
    return high.to(dtype), low[: count - 3].to(dtype)


@pytest.mark.parametrize("arithmetic", ["float64", "float32", "real"])
def test_certification(arithmetic):
    model = detector()
    inliers, outliers = samples()
    found = certify(model, inliers, outliers, ("8/255", 0.25), 0.1, arithmetic=arithmetic)
    with torch.no_grad():
        scores = model(torch.cat([inliers, outliers])).flatten()
    assert torch.allclose(found.scores.float(), scores, atol=1e-5)
    assert found.auroc == auroc(found.scores[:12], found.scores[12:])
    for eps, share in found.certified_auroc.items():
        most = certified_auroc(found.scores[:12], found.scores[12:], eps, float(found.bound))
        assert share == found.certified_auroc_at(eps) <= most <= found.auroc
    right = (found.scores > 0.1) == found.is_inlier
    exact = (found.scores - 0.1).abs() / float(found.bound)
    assert torch.equal(found.radius > 0, right)
    assert (found.radius[right] <= exact[right]).all()
    assert torch.allclose(found.radius[right], exact[right], atol=1e-3)


def test_rounding_is_counted():
    """A float32 execution certifies less than a float64 one, and that less than real numbers."""
    model, (inliers, outliers) = detector(), samples()
    by = {
        name: certify(model, inliers, outliers, 0.01, arithmetic=name)
        for name in ("real", "float64", "float32")
    }
    sides = [found._moved(0.01) for found in by.values()]
    lows, highs = zip(*sides, strict=True)
    assert (lows[2] < lows[1]).all()
    assert (lows[1] < by["float64"].scores[:12]).all()
    assert (highs[2] > highs[1]).all()
    error = by["float32"].certificate.composed.error
    least = 2 * (error[0] * by["float32"].norms[:12] + error[1])
    assert (by["float32"].scores[:12] - lows[2] >= least + 0.01 * 0.99).all()


def test_no_perturbed_float32_run_leaves_the_bounds():
    """Scores of the float32 run at randomly perturbed samples, against the moved scores."""
    model, (inliers, outliers) = detector(), samples()
    found = certify(model, inliers, outliers, arithmetic="float32")
    random = torch.Generator().manual_seed(2)
    for eps in (1e-6, 1e-3, 0.5):
        lowest, highest = found._moved(eps)
        for _ in range(20):
            noise = torch.randn(12, 35, generator=random, dtype=torch.float64)
            noise = (noise / noise.norm(dim=1, keepdim=True) * eps * (1 - 1e-6)).view(12, 1, 7, 5)
            with torch.no_grad():
                low = model((inliers.double() + noise).float()).flatten()
                high = model((outliers.double() + noise[:9]).float()).flatten()
            assert (low.double() >= lowest).all()
            assert (high.double() <= highest).all()


def test_no_attack_gets_below():
    """PGD lowers inliers and raises outliers as far as it can."""
    model, (inliers, outliers) = detector(), samples()
    shifts = {1: 100.0, 0: -100.0}  # no attack crosses this, so that PGD goes on to its end
    found = certify(model, inliers, outliers, 0.3)
    moved = []
    for label, images in ((1, inliers), (0, outliers)):
        shift = nn.Linear(1, 1)
        with torch.no_grad():
            shift.weight.fill_(1.0)
            shift.bias.fill_(shifts[label])
        labels = torch.full((len(images),), label)
        attacked = taut.attack(nn.Sequential(model, shift), images, labels, 0.3, PGD(steps=30))
        with torch.no_grad():
            moved.append(model(attacked.adversarial).flatten())
    assert found.certified_auroc[0.3] <= auroc(*moved) < found.auroc


def test_points_of_the_roc_curve():
    found = certify(detector(), *samples())
    high, low = found.scores[found.is_inlier], found.scores[~found.is_inlier]
    for share in (0.0, 0.2, 0.5):
        best = max(
            float((high > t).double().mean())
            for t in low.tolist()
            if (low > t).double().mean() <= share
        )
        assert math.isclose(found.tpr_at_fpr(share), best)
        assert found.tpr_at_fpr(share, eps=0.05) <= best
    for share in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="`share` must be from 0"):
            found.tpr_at_fpr(share)


def test_samples_that_may_overflow_are_not_certified():
    model, (inliers, outliers) = detector(), samples()
    found = certify(model, inliers, outliers - 1, arithmetic="float32")
    assert found.auroc > 0
    assert found.certified_auroc_at(1e38) == 0.0


def test_result_as_text():
    found = certify(detector(), *samples(), eps=("8/255", 0.25))
    content = json.loads(found.to_json())
    assert content["certified_auroc"] == {str(k): v for k, v in found.certified_auroc.items()}
    assert content["scores"] == found.scores.tolist()
    assert "certified AUROC at 8/255" in str(found)
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_the_model(dtype):
    assert certify(detector(dtype), *samples(dtype)).auroc > 0


def test_refused_arguments():
    model, (inliers, outliers) = detector(), samples()
    with pytest.raises(ValueError, match="`detector` must give one number"):
        certify(nn.Sequential(nn.Flatten(), nn.Linear(35, 2)), inliers, outliers)
    with pytest.raises(ValueError, match="`images` must be finite"):
        certify(model, inliers * math.nan, outliers)
    with pytest.raises(ValueError, match="`images` must hold at least one"):
        certify(model, inliers, outliers[:0])
    with pytest.raises(ValueError, match=r"`images` must be \(n, 1, 7, 5\)"):
        certify(model, inliers, outliers[:, :, :6])
    with pytest.raises(ValueError, match="`threshold` must be a finite number"):
        certify(model, inliers, outliers, threshold=math.nan)
    with pytest.raises(ValueError, match="`eps` must be"):
        certify(model, inliers, outliers, eps=-1)


def test_attacks_on_record_lie_between_certified_and_clean():
    """Of the same images, for each class and detector of the published comparison."""
    record = json.loads((Path(__file__).parents[3] / "records" / "one-class.json").read_text())
    rows = [row[name] for row in record["mnist"] for name in ("both", "network")]
    assert len(rows) == 20
    for row in rows:
        for eps, attacked in row["attacked"].items():
            assert row["part"]["certified"][eps] <= attacked <= row["part"]["clean"]
