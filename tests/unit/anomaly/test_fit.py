"""Detectors: what they learn, that they are 1-Lipschitz, and what they refuse."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import taut
from taut.anomaly import (
    OUTLIERS,
    Detector,
    Neighbours,
    Settings,
    attacked_auroc,
    auroc,
    certify,
    fit,
    neighbours,
)
from taut.anomaly._fit import _blurred
from taut.anomaly._outliers import pushed
from taut.certification import prove, verifier

QUICK = Settings(steps=25, batch_size=16, lr=1e-2)


def images(kind, count=64, dtype=torch.float32, size=(11, 9)):
    """Bright disks are normal, bright frames are not."""
    random = torch.Generator().manual_seed(kind)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    shape = (x**2 + y**2 < 0.4) if kind == 0 else (x.abs().maximum(y.abs()) > 0.7)
    noise = 0.3 * torch.rand(count, 1, *size, generator=random)
    return (0.7 * shape + noise).to(dtype)


def moons(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(count, generator=random)
    return torch.stack([angle.cos(), angle.sin()], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [partial(fit, settings=QUICK), neighbours])
def test_anomalies_score_low(make, dtype):
    detector = make(images(0, 200, dtype))
    inliers, outliers = images(0, 40, dtype) * 0.99, images(1, 40, dtype)
    found = certify(detector, inliers, outliers)
    assert found.auroc > 0.95
    assert float(found.bound) <= 1 + 3e-6
    with torch.no_grad():
        accepted = float((detector(images(0, 200, dtype)) > 0).double().mean())
    assert 0.8 <= accepted < 1
    attacked = attacked_auroc(detector, inliers, outliers, "36/255", steps=5)
    assert found.certified_auroc["36/255"] <= attacked <= found.auroc


def test_vectors():
    away = 0.3 * torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    away = away - torch.tensor([0.0, 0.5])
    for detector in (fit(moons(300), settings=replace(QUICK, steps=60)), neighbours(moons(300))):
        with torch.no_grad():
            assert auroc(*(detector(x).flatten() for x in (moons(100, 2), away))) > 0.9


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**-10, 2.0**60])
def test_the_unit_of_the_samples_does_not_matter(unit):
    first, other = (fit(unit * moons(80), settings=QUICK) for unit in (1.0, unit))
    inliers, outliers = moons(30, seed=1), moons(30, seed=2) - 1
    results = [
        certify(detector, inliers * scale, outliers * scale, eps=0.01 * scale)
        for detector, scale in ((first, 1.0), (other, unit))
    ]
    assert results[1].auroc == pytest.approx(results[0].auroc, abs=0.01)
    assert next(iter(results[1].certified_auroc.values())) > 0.9 * results[1].auroc > 0.6


def test_equal_seeds_give_equal_detectors():
    before = torch.random.get_rng_state()
    first, again, other = (
        fit(images(0), settings=replace(QUICK, steps=3, seed=seed)).state_dict()
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_own_model_and_progress():
    model = nn.Sequential(nn.Flatten(), taut.nn.Linear(99, 1))
    told = []
    detector = fit(
        images(0), model, settings=replace(QUICK, steps=4), on_progress=lambda *x: told.append(x)
    )
    assert [step for step, _ in told] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for _, value in told)
    assert detector(images(1)).shape == (64, 1)


def slow_score(x, points, corrections, count):
    """In float64, one sample and one point at a time."""
    least = sorted(
        math.dist(x.flatten().tolist(), y.flatten().tolist()) - float(v)
        for y, v in zip(points, corrections, strict=True)
    )
    return -sum(least[:count]) / count


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_against_a_loop(dtype, scale):
    """The computed scores lie within the proven rounding error of the exact ones."""
    random = torch.Generator().manual_seed(0)
    points = (scale * torch.randn(9, 1, 3, 5, generator=random)).to(dtype)
    x = (scale * torch.randn(6, 1, 3, 5, generator=random)).to(dtype)
    x[0] = points[4]
    for count in (1, 4, 9):
        score = Neighbours.of(points, count=count, share=0.7)
        arithmetic = str(dtype).removeprefix("torch.")
        certificate = prove(score, (1, 3, 5), arithmetic=arithmetic)
        a, b = certificate.composed.error
        for row, f in zip(x, score(x).flatten().tolist(), strict=True):
            exact = slow_score(row, points, score.corrections, count)
            allowed = a * float(row.double().norm()) + b
            assert abs(f - exact) <= allowed < max(scale, 2.0**-10) * 1e-3


@pytest.mark.parametrize("arithmetic", ["float64", "float32", "real"])
def test_others_prove_the_certificate_again(arithmetic, tmp_path):
    detector = Detector(neighbours(images(0)), nn.Sequential(nn.Flatten(), nn.Linear(99, 1)))
    found = taut.predict(detector, images(1, 5), arithmetic=arithmetic)
    files = found.save(tmp_path / "detector.json")
    assert taut.verify(*files).bound == float(found.bound)
    assert "Lipschitz bound" in verifier.verify(*files)


def test_frozen_detectors_score_alike():
    detector = Detector(fit(images(0), settings=QUICK), neighbours(images(0)))
    assert torch.allclose(taut.freeze(detector)(images(1)), detector(images(1)), atol=1e-5)


def test_corrections_against_a_loop():
    points = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Neighbours.of(points, count=1, share=0.5).corrections
    for i, point in enumerate(points):
        gaps = [math.dist(point, other) for j, other in enumerate(points) if j != i]
        assert math.isclose(float(found[i]), min(gaps) / 2)


def test_squares_below_the_smallest_number():
    """Distances that vanish in float32 are within the proven error."""
    points = torch.zeros(3, 20)
    score = Neighbours(points, torch.zeros(3), count=2)
    x = torch.full((1, 20), 1e-24)
    certificate = prove(score, (20,), arithmetic="float32")
    a, b = certificate.composed.error
    exact = -math.sqrt(20) * 1e-24
    assert abs(float(score(x)) - exact) <= a * float(x.double().norm()) + b


@pytest.mark.parametrize("count", [1, 3])
def test_no_two_points_refute_the_constant(count):
    random = torch.Generator().manual_seed(0)
    points = torch.randn(20, 4, dtype=torch.float64, generator=random)
    score = Neighbours.of(points, count=count)
    x = torch.randn(200, 4, dtype=torch.float64, generator=random)
    y = torch.cat([x[:100] + 1e-3 * x[100:], x[100:]])
    for other in (y, x.flip(0)):
        moved = (score(x) - score(other)).flatten().abs()
        assert (moved <= (x - other).norm(dim=1) + 1e-12).all()


@pytest.mark.parametrize("size", [(8, 8), (11, 9), (28, 28)])
def test_norm_of_the_blur(size):
    """The dense operator, by pushing the identity through."""
    layer = _blurred(torch.zeros(1, 1, *size, dtype=torch.float64), 1.0)
    identity = torch.eye(math.prod(size), dtype=torch.float64).view(-1, 1, *size)
    largest = torch.linalg.svdvals(layer(identity).flatten(1))[0]
    assert 0.85 < largest <= 1 + 1e-9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(OUTLIERS))
def test_outliers(name, channels):
    given = torch.rand(12, channels, 13, 10, generator=torch.Generator().manual_seed(0)) * 3 - 1
    before = given.clone()
    made = [OUTLIERS[name](given, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(given, before)
    assert made[0].shape == given.shape
    assert made[0].dtype == given.dtype
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].min() >= given.min() - 1e-5
    assert made[0].max() <= given.max() + 1e-5


def test_shuffled_patches_are_those_of_the_image():
    given = torch.arange(2 * 70.0).view(2, 1, 10, 7)
    made = OUTLIERS["shuffled"](given, torch.Generator().manual_seed(0))
    for a, b in zip(given, made, strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)


def test_pushed_outliers_reach_the_level():
    """On a linear score one step of length 1 reaches the level; a random share goes part of it."""
    model = nn.Linear(3, 1, bias=False)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.6, 0.8, 0.0]]))
    level = 0.9
    moved = pushed(model, points, level, 30, torch.Generator().manual_seed(0))
    before, after = model(points).flatten(), model(moved).flatten()
    assert (after >= before - 1e-5).all()
    assert (after[before < level] <= level + 1e-5).all()
    assert (after - before).mean() > 0.05
    assert torch.equal(moved[before >= level], points[before >= level])


def test_mean_of_scores():
    parts = taut.nn.Linear(4, 1), taut.nn.Linear(4, 1)
    x = torch.randn(5, 4)
    detector = Detector(*parts, threshold=0.25)
    assert torch.allclose(detector(x), (parts[0](x) + parts[1](x)) / 2 - 0.25)
    assert float(taut.lipschitz_bound(detector, (4,))) <= 1 + 3e-6
    assert copy.deepcopy(detector).threshold == 0.25


def test_threshold_accepts_a_share():
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    first = Detector(nn.Linear(4, 1))
    found = first.calibrated(x, keep=0.9)
    assert float((found(x) > 0).float().mean()) == pytest.approx(0.9, abs=0.01)
    assert first.threshold == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threshold_accepts_equal_samples(dtype):
    constant, coins = torch.full((60, 3), 0.3, dtype=dtype), moons(60).gt(0).to(dtype)
    detectors = [
        Detector(nn.Linear(3, 1).to(dtype), threshold=5.0).calibrated(constant, keep=0.5),
        neighbours(constant),
        neighbours(coins),
    ]
    for detector, normal in zip(detectors, (constant, constant, coins), strict=True):
        assert bool((detector(normal) > 0).all())
        assert bool((detector(normal[:1]) > 0).all())
    x = torch.randn(30, 4)
    for keep, accepted in ((0.0, 0), (1.0, 30)):
        assert int((Detector(nn.Linear(4, 1)).calibrated(x, keep)(x) > 0).sum()) == accepted


def test_state_dict_round_trip():
    first, other = neighbours(moons(40)), neighbours(moons(40, seed=5))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(moons(7)), other(moons(7)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "`steps` must be a positive integer"),
        ({"batch_size": 1}, "`batch_size` must be an integer >= 2"),
        ({"lr": math.nan}, "`lr` must be a positive number"),
        ({"margin": 0.0}, "`margin` must be a positive number"),
        ({"alpha": -1.0}, "`alpha` must be a positive number"),
        ({"keep": 1.0}, "`keep` must be between 0 and 1"),
        ({"held_out": 0.0}, "`held_out` must be between 0 and 1"),
        ({"outliers": ("other",)}, "`outliers` must be names of shuffled"),
        ({"outliers": ()}, "`outliers` must be names of shuffled"),
    ],
)
def test_refused_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


@pytest.mark.parametrize("make", [fit, neighbours])
def test_refused_samples(make):
    for samples in (torch.rand(10, 2), torch.rand(20), torch.rand(20, 2).half()):
        with pytest.raises(ValueError, match="`samples` must be more than 10"):
            make(samples)
    with pytest.raises(ValueError, match="`samples` must be finite"):
        make(torch.full((20, 2), math.nan))


@pytest.mark.parametrize("changes", [{"blur": -1.0}, {"blur": math.nan}, {"share": math.inf}])
def test_refused_options_of_neighbours(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"`{name}` must be a number >= 0; got"):
        neighbours(images(0, 20), **changes)
    with pytest.raises(ValueError, match="`held_out` must be between 0 and 1; got 0"):
        neighbours(images(0, 20), held_out=0.0)


def test_outliers_and_models_must_fit_the_samples():
    with pytest.raises(ValueError, match="`outliers` must be of noise, recombined for samples"):
        fit(moons(30), settings=replace(QUICK, outliers=("noise", "turned")))
    with pytest.raises(
        ValueError, match=r"`model` must give one number a sample; got shape \(2,\)"
    ):
        fit(moons(30), nn.Linear(2, 2), settings=QUICK)
    tracked = moons(30).requires_grad_()
    assert torch.equal(
        fit(tracked, settings=QUICK)(moons(5)), fit(moons(30), settings=QUICK)(moons(5))
    )


def test_refused_parts():
    with pytest.raises(ValueError, match="`scores` must be at least one"):
        Detector()
    with pytest.raises(ValueError, match="`keep` must be from 0 to 1"):
        Detector(nn.Linear(2, 1)).calibrated(torch.rand(3, 2), keep=2.0)
    with pytest.raises(ValueError, match="`points` must be at least `count`"):
        Neighbours(torch.zeros(2, 2), torch.zeros(2), count=3)
    with pytest.raises(ValueError, match="`points` must be at least 2"):
        Neighbours.of(torch.zeros(1, 2))
    for points in (torch.zeros(4, 2).half(), torch.zeros(4), torch.full((4, 2), math.nan)):
        with pytest.raises(ValueError, match="`points` must be samples of finite float32"):
            Neighbours.of(points)


def test_what_is_no_tensor_is_refused_by_its_type(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    points = torch.rand(20, 2)
    detector, array = neighbours(points), points.numpy()
    for name, call in (
        ("samples", lambda: fit(array)),
        ("samples", lambda: neighbours(array)),
        ("inliers", lambda: detector.calibrated(array)),
        ("inliers", lambda: taut.anomaly.certify(detector, array, points)),
        ("outliers", lambda: taut.anomaly.certify(detector, points, array)),
        ("inputs", lambda: taut.slopes(detector, (2,)).rounding(array)),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be a torch.Tensor; got numpy.ndarray"):
            call()


def test_scores_that_are_not_finite_set_no_threshold():
    detector = Detector(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="`inliers` must have finite scores"):
        detector.calibrated(torch.tensor([[1.0], [math.inf]]))


@pytest.mark.parametrize("extent", [1e-44, 0.9, 3.0, 3e38])
def test_default_detectors_have_the_same_state_in_any_unit(extent):
    samples = extent * (torch.rand(40, 3) - 0.5)
    detector = fit(samples, settings=Settings(steps=1))
    keys = fit(torch.rand(40, 3), settings=Settings(steps=1)).state_dict().keys()
    assert detector.state_dict().keys() == keys
    assert detector(samples).isfinite().all()
