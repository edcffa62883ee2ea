"""Sets and intervals: coverage counted against exact binomial tails, also under attack."""

import math
from fractions import Fraction

import jaxtyping
import pytest
import torch
from torch import nn

import taut
from taut.conformal import ConformalClassifier, ConformalRegressor, Logit, Margin, Softmax

SCORES = {"margin": Margin(), "logit": Logit(), "softmax": Softmax(0.5)}
EPS, POINTS, TRIALS = 0.4, 19, 1500


def at_least(hits, trials, share):
    """The exact probability of at least this many successes."""
    p = Fraction(share).limit_denominator(1000)
    a, b = p.numerator, p.denominator
    cases = (math.comb(trials, k) * a**k * (b - a) ** (trials - k) for k in range(hits, trials + 1))
    return Fraction(sum(cases), b**trials)


def classes(seed, n):
    """Three Gaussian clouds that overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    means = torch.eye(3).double()
    return means[labels] + 0.7 * torch.randn(n, 3, generator=generator).double(), labels


def classifier():
    """Linear, so that the worst attack on a label has a closed form."""
    model = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    return model


def attack(x, labels, eps):
    """The worst change of the margin: against the label, for the best other logit."""
    others = x.scatter(1, labels[:, None], -math.inf).argmax(1)
    step = torch.zeros_like(x)
    step.scatter_(1, others[:, None], 1.0)
    step.scatter_(1, labels[:, None], -1.0)
    return x + eps * (1 - 1e-9) * step / 2**0.5


@pytest.mark.parametrize("name", SCORES)
def test_coverage_is_at_least_as_promised_for_clean_and_attacked_inputs(name):
    """Calibration and new point are drawn anew each time: hits are independent.

    The rate of misses may not be above alpha: were it alpha, so many misses would have a
    probability below 1e-6. Without the radius the attacked ones are missed far too often.
    """
    model, alpha = classifier(), 0.1
    x, labels = classes(0, TRIALS * (POINTS + 1))
    whole = ConformalClassifier.calibrate(
        model, x[:POINTS], labels[:POINTS], eps=EPS, score=SCORES[name]
    )
    above = whole.bounds.above(x).gather(1, labels[:, None]).reshape(TRIALS, -1)
    new = torch.arange(TRIALS) * (POINTS + 1) + POINTS
    rank = math.ceil((POINTS + 1) * (1 - alpha))
    thresholds = above[:, :POINTS].sort(1).values[:, rank - 1]
    assert whole.threshold == thresholds[0]  # what is simulated is what calibrate does
    moved = attack(x[new], labels[new], EPS)
    assert (taut.l2_distance_upper(moved, x[new]) <= EPS).all()
    missed = {}
    for kind, images, eps in (("clean", x[new], 0), ("robust", moved, EPS), ("plain", moved, 0)):
        low = whole.bounds.below(images, eps).gather(1, labels[new][:, None])[:, 0]
        missed[kind] = int((low > thresholds).sum())
    assert at_least(missed["clean"], TRIALS, alpha) > 1e-6
    assert at_least(missed["robust"], TRIALS, alpha) > 1e-6
    assert at_least(missed["plain"], TRIALS, alpha) < 1e-6
    assert missed["clean"] > 0.05 * TRIALS  # without a radius the promise is nearly tight


@pytest.mark.parametrize("name", SCORES)
def test_sets_of_attacked_inputs_contain_those_of_clean_ones(name):
    x, labels = classes(1, 300)
    found = ConformalClassifier.calibrate(
        classifier(), x[:100], labels[:100], eps=EPS, score=SCORES[name]
    )
    clean = found.sets(x[100:], eps=0)
    for label in range(3):
        target = torch.full((200,), label)
        for moved in (attack(x[100:], target, EPS), attack(x[100:], target, -EPS)):
            assert (found.sets(moved) | ~clean).all()
            assert (found.sets(moved, eps=0) | ~clean).all(dim=1).sum() < 200  # the attack matters


def test_sets_grow_with_eps_and_shrink_with_alpha():
    x, labels = classes(2, 300)
    sizes = []
    for eps, alpha in ((0, 0.1), ("1/10", 0.1), (0.3, 0.1), (0.3, "1/3"), (0.3, "9/10")):
        found = ConformalClassifier.calibrate(
            classifier(), x[:100], labels[:100], eps=eps, alpha=alpha
        )
        sets = found.sets(x[100:])
        assert torch.equal(sets, found.sets(x[100:], eps=eps))
        sizes.append(sets.double().sum(1).mean().item())
    assert sizes[0] < sizes[1] < sizes[2] > sizes[3] > sizes[4]


def test_unconstrained_nets_get_large_sets_and_keep_the_promise():
    """The proved constant of a plain net is large; the same net scaled down loses nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )
    for p in model.parameters():
        p.data *= 3
    x, labels = classes(3, 300)
    images = x.float()
    own = ConformalClassifier.calibrate(classifier(), x[:100], labels[:100], eps=EPS)
    plain = ConformalClassifier.calibrate(model, images[:100], labels[:100], eps=EPS)
    assert plain.sets(images[100:]).all()
    assert own.sets(x[100:]).double().mean() < 1
    assert not plain.sets(images[100:], eps=0).all()


def test_too_few_points_give_the_set_of_all_labels_and_say_so():
    x, labels = classes(4, 30)
    found = ConformalClassifier.calibrate(classifier(), x[:8], labels[:8], eps=0.1)
    assert found.threshold == math.inf
    assert found.sets(x).all()
    assert "too few points: each set holds every label; alpha=0.1 needs 9 or more" in repr(found)
    enough = ConformalClassifier.calibrate(classifier(), x[:9], labels[:9], eps=0.1)
    assert enough.threshold < math.inf
    assert "too few" not in repr(enough)
    assert "probability >= 0.9" in repr(enough)


def test_poisoned_calibration_points_within_their_radius_only_raise_the_threshold():
    x, labels = classes(5, 60)
    for sign in (1, -1):
        poisoned = attack(x, labels, 0.2 * sign)
        for score in SCORES.values():
            clean, trusting, found = (
                ConformalClassifier.calibrate(
                    classifier(), images, labels, eps=0, score=score, calibration_eps=eps
                ).threshold
                for images, eps in ((x, 0), (poisoned, 0), (poisoned, 0.2))
            )
            assert found >= clean
            assert sign > 0 or trusting < clean  # what the radius is needed for


def test_one_output_has_two_labels():
    torch.manual_seed(0)
    model, x = taut.nn.Linear(3, 1, dtype=torch.float64), classes(6, 80)[0]
    signs = torch.where(x[:, 0] > 0.5, 1, -1)
    found = ConformalClassifier.calibrate(model, x[:50], signs[:50], eps=0.1, score=Logit())
    again = ConformalClassifier.calibrate(
        model, x[:50], (signs[:50] + 1) // 2, eps=0.1, score=Logit()
    )
    assert found.threshold == again.threshold
    margin = ConformalClassifier.calibrate(model, x[:50], signs[:50], eps=0.1)
    z = model(x[50:])[:, 0]
    limit = margin.threshold + 0.1
    expected = torch.stack([z <= limit, -z <= limit], 1)
    clear = ((z.abs() - limit).abs() > 1e-9)[:, None]
    assert torch.equal(margin.sets(x[50:]) & clear, expected & clear)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float_arithmetics_of_nets(dtype):
    """The set of the model as it runs is not larger than eps 1e-3 more would make it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        taut.nn.Conv2d(1, 4, 3, dtype=dtype), taut.nn.MaxMin(), nn.Flatten(),
        taut.nn.Linear(100, 3, dtype=dtype),
    )  # fmt: skip
    x, labels = torch.rand(120, 1, 5, 5, dtype=dtype), torch.arange(120) % 3
    arithmetic = str(dtype).removeprefix("torch.")
    sets = {}
    for name, kind, eps in (
        ("run", arithmetic, 0.1),
        ("real", "real", 0.1),
        ("more", "real", 0.101),
    ):
        found = ConformalClassifier.calibrate(
            model, x[:60], labels[:60], eps=eps, alpha="1/2", arithmetic=kind
        )
        sets[name] = found.sets(x[60:])
    assert (sets["run"] | ~sets["real"]).double().mean() > 0.99
    assert (sets["more"] | ~sets["run"]).double().mean() > 0.99


def values(seed, n):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator).double()
    noise = torch.randn(n, 2, generator=generator).double() * torch.tensor([0.3, 0.05])
    return x, x @ torch.tensor([[2.0, 0.0], [0.0, 0.5]]).double() + noise


def regressor():
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
    return model


def test_coverage_of_intervals_is_at_least_as_promised_for_clean_and_attacked_inputs():
    model, alpha = regressor(), 0.1
    x, y = values(0, TRIALS * (POINTS + 1))
    x, y = (t.reshape(TRIALS, POINTS + 1, 2) for t in (x, y))
    missed = {"clean": 0, "robust": 0, "plain": 0}
    first = ConformalRegressor.calibrate(model, x[0, :-1], y[0, :-1], eps=EPS)
    off = (y - model(x)).abs().amax(2)
    thresholds = off[:, :-1].sort(1).values[:, math.ceil((POINTS + 1) * (1 - alpha)) - 1]
    assert first.threshold == pytest.approx(thresholds[0].item(), rel=1e-12)
    new, truth = x[:, -1], y[:, -1]
    side = (truth - model(new))[:, :1].sign()
    moved = new - EPS * (1 - 1e-9) * torch.cat([side, torch.zeros_like(side)], 1)
    for kind, inputs, eps in (("clean", new, 0), ("robust", moved, EPS), ("plain", moved, 0)):
        low, high = first.intervals(inputs, eps=eps)
        shift = (thresholds - first.threshold)[:, None]
        inside = (low - shift <= truth + 1e-12) & (truth - 1e-12 <= high + shift)
        missed[kind] = int((~inside.all(1)).sum())
    assert at_least(missed["clean"], TRIALS, alpha) > 1e-6
    assert at_least(missed["robust"], TRIALS, alpha) > 1e-6
    assert at_least(missed["plain"], TRIALS, alpha) < 1e-6


def test_intervals_have_the_constant_of_each_output():
    x, y = values(1, 60)
    found = ConformalRegressor.calibrate(regressor(), x[:30], y[:30], eps=EPS)
    low, high = found.intervals(x[30:])
    half = found.threshold + EPS * torch.tensor([2.0, 0.5])
    torch.testing.assert_close((high - low) / 2, half.double().expand(30, 2), rtol=1e-6, atol=0)
    few = ConformalRegressor.calibrate(regressor(), x[:5], y[:5], eps=EPS)
    assert few.intervals(x)[1].isinf().all()
    assert "too few points: each interval is the whole line" in repr(few)
    assert "probability >= 0.9" in repr(found)
    poisoned = ConformalRegressor.calibrate(
        regressor(), x[:30], y[:30], eps=EPS, calibration_eps=0.1
    )
    assert found.threshold + 0.05 <= poisoned.threshold <= found.threshold + 0.2 + 1e-9


def test_wrong_arguments_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    x, labels = classes(7, 20)
    refused = [
        ({"eps": -1}, "`eps` must be"),
        ({"eps": 0.1, "alpha": 0}, r"`alpha` must be in \(0, 1\)"),
        ({"eps": 0.1, "alpha": 1.0}, r"`alpha` must be in \(0, 1\)"),
        ({"eps": 0.1, "calibration_eps": "x"}, "`eps` must be"),
        ({"eps": 0.1, "arithmetic": "half"}, "`arithmetic` must be one of"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            ConformalClassifier.calibrate(classifier(), x, labels, **options)
        with pytest.raises(ValueError, match=message):
            ConformalRegressor.calibrate(classifier(), x, x, **options)
    for wrong, message in (
        (labels + 1, r"`labels` must be in 0..2; got 1..3"),
        (labels[:5], "`labels` must be 20 int64 classes"),
        (labels.double(), "`labels` must be 20 int64 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            ConformalClassifier.calibrate(classifier(), x, wrong, eps=0.1)
    with pytest.raises(ValueError, match=r"`targets` must be finite, of the shape of the outputs"):
        ConformalRegressor.calibrate(classifier(), x, x[:, :2], eps=0.1)
    with pytest.raises(NotImplementedError):
        ConformalClassifier.calibrate(nn.LSTM(3, 3, dtype=torch.float64), x, labels, eps=0.1)
    found = ConformalClassifier.calibrate(classifier(), x, labels, eps=0.1)
    with pytest.raises(ValueError, match=r"must be torch\.float64"):
        found.sets(x.float())
    with pytest.raises(ValueError, match="must be finite"):
        found.sets(x / 0)
