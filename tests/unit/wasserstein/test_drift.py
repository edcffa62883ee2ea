"""Tests for drift: exact p-values, lower bounds that hold, explanations, refusals."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import taut
from taut.program import UnprovenError
from taut.wasserstein import DriftMonitor, DriftSettings, Source, critics, drift, estimate
from taut.wasserstein._confidence import least_difference
from taut.wasserstein._permutation import p_value, sign_flip_bound, whole_scores

CLOSED = DriftSettings(steps=0)
QUICK = DriftSettings(steps=5, batch_size=16)


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_of(p, q, seed=0, level=0.05, permutations=99):
    generator = torch.Generator().manual_seed(seed)
    return p_value(p, q, level=level, permutations=permutations, generator=generator)


def slow_p_value(pool, chosen):
    """The share of labellings with a statistic at least as large, in exact rationals."""
    rows = [[Fraction(value) for value in row] for row in pool.tolist()]
    spreads = pool.std(0, correction=0).tolist()

    def statistic(labelling):
        other = [i for i in range(len(rows)) if i not in labelling]
        means = [
            [sum(rows[i][k] for i in side) / len(side) for k in range(len(spreads))]
            for side in (labelling, other)
        ]
        differences = zip(*means, spreads, strict=True)
        return max(float(a - b) / s if s else 0.0 for a, b, s in differences)

    every = [statistic(c) for c in itertools.combinations(range(len(rows)), len(chosen))]
    given = statistic(chosen)
    return sum(value >= given - 1e-9 for value in every) / len(every)


@pytest.mark.parametrize(("n", "m", "k"), [(3, 3, 1), (4, 2, 1), (2, 4, 2), (3, 4, 3)])
def test_p_values_of_all_labellings_are_those_of_a_slow_count(n, m, k):
    pool = gaussian(n + m, k)
    values = []
    for chosen in itertools.combinations(range(n + m), n):
        other = [i for i in range(n + m) if i not in chosen]
        values.append(value_of(pool[[*chosen]], pool[other]))
        assert values[-1] == pytest.approx(slow_p_value(pool, chosen), abs=1e-12)
    count = math.comb(n + m, n)
    # Without ties the p-values are uniform: each multiple of 1 / count once.
    assert sorted(values) == pytest.approx([(i + 1) / count for i in range(count)])


def test_ties_are_exact_whatever_the_order_of_sums():
    pool = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).double()[:, None]
    for chosen in itertools.combinations(range(6), 3):
        other = [i for i in range(6) if i not in chosen]
        values = {value_of(pool[[*order]], pool[other]) for order in itertools.permutations(chosen)}
        assert len(values) == 1
        assert values.pop() == pytest.approx(slow_p_value(pool, chosen), abs=1e-12)
    constant = torch.ones(30, 2).double()
    assert value_of(constant, constant) == 1.0
    assert value_of(constant, constant, level=1e-9) == 1.0


@pytest.mark.parametrize(("n", "m"), [(20, 20), (12, 40), (40, 12)])
@pytest.mark.parametrize("tail", ["normal", "cauchy", "ties"])
def test_p_values_of_random_labellings_hold_their_level(n, m, tail):
    random = np.random.default_rng(0)
    repeats, values = 400, []
    for seed in range(repeats):
        pool = random.normal(size=(n + m, 2))
        pool = random.standard_cauchy((n + m, 2)) if tail == "cauchy" else pool
        pool = torch.from_numpy(np.sign(pool) if tail == "ties" else pool)
        values.append(value_of(pool[:n], pool[n:], seed, permutations=39))
    for level in (0.05, 0.1, 0.5):
        share = sum(value <= level for value in values) / repeats
        assert share <= level + 3.5 * math.sqrt(level * (1 - level) / repeats)
    if tail != "ties":  # and are not larger than they must be
        assert sum(value <= 0.5 for value in values) / repeats >= 0.4


def test_sums_of_many_scores_do_not_overflow():
    """Apart by their whole range, which times n^2 is beyond int64."""
    x, y = torch.ones(4000, 1).double(), torch.zeros(4000, 1).double()
    assert value_of(x, y, permutations=19) == pytest.approx(0.05)
    assert value_of(y, x, permutations=19) == 1.0


def test_either_side_may_be_drawn():
    x, y = gaussian(30, 1) + 0.3, gaussian(9, 1, seed=1)
    values = [value_of(a, b, seed=3, permutations=4999) for a, b in ((x, y), (-y, -x))]
    assert values[0] == pytest.approx(values[1], abs=0.03)


def test_sign_flips_bound_the_exact_share():
    for seed in range(20):
        x, y = gaussian(10, 1, seed)[:, 0] + 0.5, gaussian(10, 1, seed + 50)[:, 0]
        bound = sign_flip_bound(x, y, torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        order = [torch.randperm(10, generator=generator) for _ in range(2)]
        differences = x[order[0]] - y[order[1]]
        signs = torch.tensor([*itertools.product((-1.0, 1.0), repeat=10)]).double()
        share = float((signs @ differences >= differences.sum() - 1e-9).double().mean())
        assert bound >= share
        assert bound <= max(30 * share, 1e-2) or share > 0.1
    far = gaussian(100, 1)[:, 0]
    assert sign_flip_bound(far + 9, far, torch.Generator()) < 1e-25
    many = torch.ones(2000).double()
    assert sign_flip_bound(many, 0 * many, torch.Generator()) > 0  # 2^-2000 is no float


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_whole_scores_keep_ratios(scale):
    scores = gaussian(50, 3)
    scores[:, 2] = 7.0
    wholes = whole_scores(scores * scale)
    assert int(wholes.max()) < 1 << 42
    expected = (scores - scores.amin(0)) / (scores.amax(0) - scores.amin(0)).clamp_min(1e-9)
    shares = wholes.double() / wholes.amax(0).clamp_min(1).double()
    assert (shares - expected).abs().max() < 1e-9


def heavy(n, seed):
    student = torch.distributions.StudentT(2.0)
    torch.manual_seed(seed)
    return student.sample((n, 3)).double()


@pytest.mark.parametrize("draw", [lambda n, seed: gaussian(n, 3, seed), heavy])
def test_false_alarms_are_no_more_than_allowed(draw):
    level, repeats = 0.2, 24
    alarms = sum(
        drift(
            draw(24, seed),
            draw(16, seed + 9000),
            level=level,
            settings=DriftSettings(steps=0, permutations=39, seed=seed),
        ).alarm
        for seed in range(repeats)
    )
    assert alarms <= repeats * level + 3 * math.sqrt(repeats * level * (1 - level))


def test_lower_bounds_hold_and_are_not_void():
    above, values = 0, []
    for seed in range(20):
        x, y = gaussian(400, 2, seed), gaussian(300, 2, seed + 500) + torch.tensor([0.8, 0.6])
        result = drift(x, y, level=0.1, settings=DriftSettings(steps=0, permutations=19, seed=seed))
        values.append(result.lower)
        above += result.lower > 1.0  # W1 of translates
    assert above <= 5
    assert min(values) > 0.2


def test_means_of_bounded_variables_are_bounded_as_often_as_claimed():
    random, failures, repeats = np.random.default_rng(1), 0, 400
    for _ in range(repeats):
        # Rare large values, for which quantiles of the normal distribution fail.
        x, y = (torch.from_numpy((random.random(n) < 0.03).astype(float)) for n in (60, 25))
        bound = least_difference(-y, -x, failure=0.1, span=1.0, deviation=0.01)
        failures += bound > 0.0
    assert failures <= 0.1 * repeats + 3 * math.sqrt(0.09 * repeats)
    x = torch.ones(5).double()
    assert least_difference(x, x, failure=0.1, span=0.0, deviation=0.0) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (5,), (1, 9, 7)])
def test_shifts_are_found_and_explained(shape, dtype):
    x, y = (gaussian(120, math.prod(shape), s).reshape(-1, *shape).to(dtype) for s in (0, 1))
    place = (0,) * (len(shape) - 1) + (shape[-1] - 1,)
    y[(slice(None), *place)] += 6.0
    result = drift(x, y, settings=QUICK)
    assert result.alarm
    assert result.saliency.shape == shape
    assert result.saliency[place] == result.saliency.max()
    assert float(result.saliency.sum()) == pytest.approx(result.dual, rel=0.1)
    assert 0 < result.lower < result.dual
    named = ",".join(map(str, place))
    assert result.top(1)[0][0] == named
    scores = next(result.critic.children()).double()(y.double()).flatten()
    assert result.shifted.tolist() == scores.argsort(stable=True)[:10].tolist()


@pytest.mark.parametrize("factor", [1e-100, 2.0**-300, 1e44, 2.0**200])
def test_the_decision_does_not_depend_on_the_unit(factor):
    x, y = gaussian(60, 3), gaussian(50, 3, seed=1) * 1.1 + 0.4
    one, other = (drift(x * f, y * f, settings=QUICK, standardise=False) for f in (1.0, factor))
    assert (other.p_value, other.alarm, other.chosen) == (one.p_value, one.alarm, one.chosen)
    assert other.lower == pytest.approx(one.lower * factor, rel=1e-6)
    assert torch.allclose(other.saliency / factor, one.saliency, rtol=1e-5, atol=1e-7)
    scaled = drift(x * factor, y * factor, settings=QUICK, standardise=True)
    assert scaled.lower == pytest.approx(drift(x, y, settings=QUICK, standardise=True).lower)


def test_standardised_features_do_not_depend_on_their_units():
    x, y = gaussian(80, 3), gaussian(80, 3, seed=1)
    x[:, 2], y[:, 2] = 5.0, 5.0
    y[:, 1] += 2
    units = torch.tensor([1e-6, 1e8, 1.0]).double()
    results = [drift(x * u, y * u, standardise=True, settings=QUICK) for u in (1.0, units)]
    assert results[0].p_value == results[1].p_value
    assert results[0].lower == pytest.approx(results[1].lower, rel=1e-6)
    assert results[0].top(1)[0][0] == results[1].top(1)[0][0] == "1"
    assert results[1].scale is not None
    assert float(results[1].scale[2]) == 1.0


@pytest.mark.parametrize("value", [-1.7e308, 1e-310, 1.0])
def test_standard_deviations_do_not_overflow(value):
    x = torch.tensor([[value, 0.0], [-value, 1.0]], dtype=torch.float64).repeat(20, 1)
    same = drift(x, x.clone(), standardise=True, settings=CLOSED)
    assert not same.alarm
    assert same.scale is not None
    assert float(same.scale[0]) == pytest.approx(abs(value), rel=0.1, abs=0.0)
    if value == 1e-310:
        with pytest.raises(ValueError, match="`standardise` must be False for a feature that over"):
            drift(x, x + 1, standardise=True, settings=CLOSED)


def test_the_standardisation_has_not_seen_held_out_points():
    x = gaussian(40, 2)
    result = drift(x, x + 1, standardise=True, settings=CLOSED)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert result.scale is not None
    assert torch.allclose(result.scale, x[order[20:]].std(0))


def test_a_critic_of_ones_own_is_value_of():
    x = gaussian(60, 4)
    result = drift(x, x + 3, critics.dense((4,), width=8, depth=1), settings=QUICK)
    assert (result.chosen, result.alarm, float(result.bound) <= 1 + 1e-6) == ("network", True, True)
    steep = nn.Linear(4, 1)
    with torch.no_grad():
        steep.weight.fill_(100.0)
    # Its slope is 200; it scores the points in the order that it is given, or not at all.
    assert drift(x, x + 3, steep, settings=CLOSED).dual == 0.0
    assert drift(x + 3, x, steep, settings=CLOSED).dual == pytest.approx(6.0, rel=0.1)
    with pytest.raises(UnprovenError):
        drift(x, x + 3, nn.Sequential(nn.Linear(4, 4), Unknown(), nn.Linear(4, 1)))


class Unknown(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_results_do_not_disturb_the_generator_and_repeat():
    x, y = gaussian(40, 2), gaussian(40, 2, seed=1)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (drift(x, y, settings=QUICK) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.to_json() == second.to_json()


def test_result_is_shown():
    x = gaussian(40, 2)
    result = drift(x, x + 9, settings=CLOSED, features=["<age>", "income"])
    assert str(result).startswith("drift: p-value 0.001 <= level 0.05\nW1 of the distributions >= ")
    assert "features that carry it: " in str(result)
    assert "&lt;age&gt;" in result._repr_html_()
    content = json.loads(result.to_json())
    assert (content["alarm"], content["features"]) == (True, ["<age>", "income"])
    assert set(content) >= {"p_value", "lower", "saliency", "shifted"}
    axes = result.plot()
    assert [line.get_label() for line in axes.lines] == ["reference", "new"]
    calm = drift(x, gaussian(40, 2, seed=5), settings=CLOSED)
    assert str(calm).startswith("no drift found: p-value ")
    assert repr(calm).startswith("Drift(alarm=False, ")
    same = estimate(x, x + 9, settings=taut.wasserstein.Settings(steps=0))
    assert [line.get_label() for line in taut.plot.scores(same).lines] == ["p", "q"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 0.0}, "`level` must be between 0 and 1; got 0.0"),
        ({"level": 1.5}, "`level` must be between 0 and 1"),
        ({"new": torch.zeros(9, 3)}, r"`reference` and `new` must have points of one shape; got"),
        ({"new": torch.full((9, 2), math.nan)}, "`new` must be finite; it holds NaN or infinity"),
        ({"new": torch.zeros(3, 2)}, "`new` must have at least 4 points; got 3"),
        ({"new": torch.zeros(4, 2), "level": 1e-9}, r"`level` must be at least 0.00433, the least"),
        (
            {"new": torch.zeros(14, 2), "level": 1e-7},
            r"the least p-value of 20 and 7 held-out points",
        ),
        ({"features": ["a"]}, r"`features` must be a name for each number of a point of shape"),
    ],
)
def test_wrong_use_is_one_sentence(change, message):
    arguments = {"reference": torch.zeros(40, 2), "new": torch.ones(40, 2)} | change
    with pytest.raises(ValueError, match=message) as caught:
        drift(**arguments, settings=CLOSED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"held_out": 0.0}, "`held_out` must be above 0"), ({"permutations": 0}, "`permutations`")],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DriftSettings(**change)


def test_arrays_are_taken_whatever_their_layout():
    x, y = gaussian(30, 2).numpy(), gaussian(30, 2, seed=1).numpy()
    expected = drift(x, y, settings=CLOSED)
    fixed = x.copy()
    fixed.setflags(write=False)
    for same in (x.astype(">f8"), x[::-1].copy()[::-1], np.asfortranarray(x), fixed):
        assert drift(same, y, settings=CLOSED).to_json() == expected.to_json()
    masked = np.ma.masked_greater(x, 0.0)
    with pytest.raises(ValueError, match="`reference` must have a number at each place; its mask"):
        drift(masked, y, settings=CLOSED)


def test_columns_must_agree():
    named, other = (Source(torch.zeros(1, 2), False, names) for names in (("a", "b"), ("a", "c")))
    assert named.check_columns(Source(torch.zeros(1, 2), False), ("x", "y")) == ("a", "b")
    message = "`x` and `y` must have the same columns in the same order; got b and c at one place"
    with pytest.raises(ValueError, match=message):
        named.check_columns(other, ("x", "y"))
    with pytest.raises(ValueError, match="got b and none at one place"):
        named.check_columns(Source(torch.zeros(1, 1), False, ("a",)), ("x", "y"))


def test_columns_of_one_name_are_all_checked():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([["x", 1.0]] * 9, columns=["a", "a"])
    with pytest.raises(ValueError, match=r"`reference` must have columns of numbers; got a \("):
        drift(frame, frame, settings=CLOSED)


def test_frames_are_points():
    pandas = pytest.importorskip("pandas")
    x, y = gaussian(40, 2), gaussian(40, 2, seed=1) + 2
    frames = [pandas.DataFrame(points.numpy(), columns=["age", "income"]) for points in (x, y)]
    plain, framed = drift(x, y, settings=CLOSED), drift(*frames, settings=CLOSED)
    assert framed.features == ("age", "income")
    assert (framed.p_value, framed.lower) == (plain.p_value, plain.lower)
    settings = taut.wasserstein.Settings(steps=0)
    assert estimate(*frames, settings=settings).upper == estimate(x, y, settings=settings).upper
    whole = frames[0].round().astype("int64")
    assert drift(whole, frames[1], settings=CLOSED).alarm
    monitor = DriftMonitor(frames[0], window=20, settings=CLOSED)
    ages = [frame.age.sort_values() for frame in frames]  # Series with numbers out of order
    column = drift(*ages, settings=CLOSED)
    assert (column.features, column.saliency.shape, column.alarm) == (("age",), (1,), True)
    assert drift(ages[0], ages[1].rename("years"), settings=CLOSED).p_value == column.p_value
    windowed = monitor.update(frames[1])
    assert windowed is not None
    assert windowed.features == ("age", "income")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(name="a"), r"`new` must have columns of numbers; got name \("),
        (lambda f: f.assign(day=np.datetime64("2020-01-01")), "must have columns of numbers"),
        (lambda f: f.assign(a=np.nan), "`new` must have a number in each cell; a has gaps"),
        (lambda f: f.rename(columns={"b": "c"}), "must have the same columns in the same order"),
        (lambda f: f[["b", "a"]], "must have the same columns in the same order; got a and b"),
        (lambda f: f[[]], "must have the same columns in the same order; got a and none"),
    ],
)
def test_frames_without_numbers_are_refused(change, message):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(gaussian(40, 2).numpy(), columns=["a", "b"])
    frames = (frame.assign(name=1.0), change(frame)) if "name" in message else None
    frames = (frame.assign(day=1.0), change(frame)) if "columns of numbers$" in message else frames
    if frames is None and "day" in change(frame).columns:
        frames = frame.assign(day=1.0), change(frame)
    with pytest.raises(ValueError, match=message) as caught:
        drift(*(frames or (frame, change(frame))), settings=CLOSED)
    assert "\n" not in str(caught.value)
    monitor = DriftMonitor(frame, window=20, settings=CLOSED)
    with pytest.raises(ValueError, match="`points` must have"):
        monitor.update(change(frame))
