"""Distances from both sides: below and above the truth, whatever the critic and the samples."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import taut
from taut.data import Split
from taut.program import UnprovenError
from taut.wasserstein import Settings, closed_form, critics, estimate
from taut.wasserstein._confidence import mean_slack, transport_slack

QUICK = Settings(steps=4, checks=2, batch_size=16, samples=40)


def gaussian(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sphere(n, d, seed=0):
    x = gaussian(n, d, seed)
    return x / x.norm(dim=1, keepdim=True)


def distance_by_matchings(p, q):
    """Repeat both samples to one size, then try every matching."""
    size = math.lcm(len(p), len(q))
    x, y = p.repeat_interleave(size // len(p), 0), q.repeat_interleave(size // len(q), 0)
    costs = [[float((a - b).norm()) for b in y] for a in x]
    orders = itertools.permutations(range(size))
    return min(sum(costs[i][j] for i, j in enumerate(order)) for order in orders) / size


@pytest.mark.parametrize("held_out", [0.0, 0.5])
@pytest.mark.parametrize("repeats", [(1, 1), (2, 3)])
def test_truth_by_all_matchings_lies_between(repeats, held_out):
    p, q = gaussian(6 // repeats[1], 3), gaussian(6 // repeats[0], 3, seed=1)
    truth = distance_by_matchings(p, q)
    # The same distributions, in samples large enough to cut.
    p, q = p.repeat(4, 1), q.repeat(2, 1)
    found = estimate(p, q, settings=Settings(steps=5, checks=1, held_out=held_out))
    assert found.lower <= truth + 1e-12
    assert found.upper >= truth - 1e-12
    assert found.empirical == pytest.approx(truth, abs=1e-12)
    if not held_out:
        assert found.interval == (found.lower, found.upper)
        assert found.lower == pytest.approx(truth, abs=1e-9)  # the potential closes the gap


@pytest.mark.parametrize("seed", range(4))
def test_truth_of_sorted_samples_lies_between_for_any_critic(seed):
    p, q = gaussian(31, 1, seed) * 2, gaussian(20, 1, seed + 10) + 0.3 * seed
    truth = wasserstein_distance(p[:, 0].numpy(), q[:, 0].numpy())
    steep = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        steep[0].weight.mul_(100)
    for critic in (None, steep, critics.dense((1,), width=8, activation="ReLU")):
        found = estimate(p, q, critic, settings=QUICK)
        assert found.lower <= truth + 1e-12
        assert found.empirical == found.upper == pytest.approx(truth, abs=1e-12)
        assert found.interval[0] <= found.lower
        assert found.interval[1] >= found.upper


@pytest.mark.parametrize("d", [2, 16])
def test_known_distances_are_reached(d):
    shift = gaussian(1, d, seed=3)
    shift = 3 * shift / shift.norm()
    x, y = gaussian(600, d), gaussian(600, d, seed=1)
    pairs = {
        "translation": (x, x + shift, 3.0),
        "gaussians": (x, y + shift, 3.0),
        "shells": (2 * sphere(600, d), sphere(600, d, seed=1), 1.0),
        "cone": (torch.zeros_like(x), y, float(y.norm(dim=1).mean())),
    }
    for name, (p, q, truth) in pairs.items():
        found = estimate(p, q, settings=Settings(steps=0))
        assert found.lower >= 0.94 * truth, name
        assert found.interval[0] <= truth <= found.interval[1], name


def test_network_alone_reaches_shells():
    found = estimate(
        lambda n: 2 * nn.functional.normalize(torch.randn(n, 2)),
        lambda n: nn.functional.normalize(torch.randn(n, 2)),
        critics.dense((2,), width=16, depth=3),
        settings=Settings(steps=200, samples=300, checks=2, batch_size=128),
    )
    assert 0.9 < found.lower <= found.upper
    assert found.interval[0] <= 1 <= found.interval[1]
    assert found.history[-1].lower > 0.85 > found.history[0].lower


def test_images_moved_by_a_known_length():
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    moved = images + 0.25
    for critic in (None, critics.dcgan((1, 8, 8), width=4, upsampling=2)):
        found = estimate(images, moved, critic, settings=QUICK)
        assert found.lower <= 2.0 + 1e-6
        assert found.empirical == pytest.approx(2.0, abs=1e-6)
    assert float(found.bound) == pytest.approx(2.0, abs=1e-6)  # upsampling by 2 doubles


@pytest.mark.parametrize("d", [2, 50])
def test_identical_distributions_may_be_at_distance_0(d):
    found = estimate(gaussian(200, d), gaussian(200, d, seed=1), settings=QUICK)
    assert found.interval[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_interval_leaves_the_truth_out_no_more_often_than_stated(shift):
    repeats, above, below = 200, 0, 0
    for seed in range(repeats):
        p, q = gaussian(80, 1, 2 * seed), gaussian(80, 1, 2 * seed + 1) + shift
        low, high = estimate(p, q, settings=Settings(steps=0, seed=seed)).interval
        above, below = above + (low > shift), below + (high < shift)
    # 2.5 % a side are allowed: 5 of 200, and 13 or more have a chance of 1 in 600.
    assert above <= 12
    assert below <= 12
    assert shift == 0 or above + below > 0  # an interval that never fails says too little


def test_nothing_cancels_far_from_the_origin():
    p = 1e7 + gaussian(40, 3)
    q = p.clone()
    q[:, 0] += 2.0**-20  # exact in float64 at this height
    found = estimate(p, q, settings=Settings(steps=0, held_out=0.0))
    assert found.upper == pytest.approx(2.0**-20, rel=1e-6)
    assert found.lower <= found.upper * (1 + 1e-12)
    assert estimate(p, p, settings=QUICK).upper == 0


def test_too_large_for_memory_gives_a_feasible_plan_and_says_so():
    p, q = gaussian(300, 4), gaussian(200, 4, seed=1)
    exact = estimate(p, q, settings=Settings(steps=0))
    critic = critics.dense((4,), width=4, depth=1)
    settings = Settings(steps=5, checks=5, max_memory=40 * 200**2)
    found = estimate(p, q, critic, settings=settings)
    assert found.empirical is None
    assert exact.upper <= found.upper <= 1.5 * exact.upper
    assert found.notes == (
        "Exact transport between 300 and 200 points needs about 0.00224 GiB, more than the "
        "0.00149 GiB of `max_memory`; `upper` is the cost of the best feasible plan found.",
    )
    assert "feasible plan" in str(found)
    costs = [row.upper for row in found.history]
    assert costs == sorted(costs, reverse=True)


def test_all_kinds_of_samples_are_the_same_samples():
    pixels = torch.randint(0, 256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(torch.uint8)
    split = Split(pixels, torch.zeros(12, dtype=torch.int64))
    images = pixels.float() / 255
    pairs = TensorDataset(images, split.labels)
    data = taut.data.Dataset("x", "X", ("a",), train=split, test=split)
    other = images.flip(-1) * 0.5
    kinds = [images, images.numpy(), pixels, split, data, pairs, DataLoader(pairs, 5), [images]]
    critic = critics.dense((1, 8, 8), width=4, depth=1)
    results = [estimate(kind, other, critic, settings=QUICK) for kind in kinds]
    assert len({(r.lower, r.upper, r.interval) for r in results}) == 1


def test_part_of_a_data_set_is_drawn_at_random():
    sorted_by_class = TensorDataset(torch.arange(400.0)[:, None])
    settings = Settings(steps=0, samples=100)
    found = estimate(
        sorted_by_class, torch.arange(400.0)[:, None], nn.Linear(1, 1), settings=settings
    )
    assert found.sizes == (100, 400)
    assert found.upper < 40  # the first hundred are 150 away


def test_results_depend_on_the_seed_alone():
    p, q = gaussian(40, 2, dtype=torch.float32), gaussian(40, 2, seed=1, dtype=torch.float32) + 1
    critic = critics.dense((2,), width=8, depth=1)
    before = [tensor.clone() for tensor in critic.state_dict().values()]
    state = torch.get_rng_state()
    first = estimate(p, q, critic, settings=QUICK)
    torch.rand(3)
    second = estimate(p, q, critic, settings=QUICK)
    assert (first.lower, first.interval) == (second.lower, second.interval)
    assert all(map(torch.equal, before, critic.state_dict().values()))
    torch.set_rng_state(state)
    sampled = [
        estimate(lambda n: torch.randn(n, 2), q, critic, settings=replace(QUICK, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert sampled[0].lower == sampled[1].lower
    assert sampled[0].upper == sampled[1].upper != sampled[2].upper
    assert torch.equal(state, torch.get_rng_state())


def test_progress_is_told_and_a_small_gap_ends_it():
    x = gaussian(40, 2)
    seen = []
    found = estimate(
        x, x + 1, critics.dense((2,), width=8), settings=QUICK, on_progress=seen.append
    )
    assert tuple(seen) == found.history
    assert [row.step for row in seen] == [0, 2, 4]
    ended = estimate(x, x + 1, settings=QUICK)  # the linear critic is optimal
    assert [row.step for row in ended.history] == [0]


def test_potential_of_a_plan_is_1_lipschitz_and_optimal():
    p, q = gaussian(30, 3), gaussian(20, 3, seed=1)
    found = estimate(p, q, settings=Settings(steps=0, held_out=0.0))
    assert found.chosen == "potential"
    f = found.critic
    assert float(taut.lipschitz_bound(f, (3,))) == 1.0
    x, y = 3 * gaussian(200, 3, seed=2), 3 * gaussian(200, 3, seed=3)
    slopes = (f(x) - f(y)).flatten().abs() / (x - y).norm(dim=1)
    assert slopes.max() <= 1 + 1e-12
    assert float(f(p).mean() - f(q).mean()) == pytest.approx(found.upper, abs=1e-9)


def test_distance_is_a_cone():
    centre, x = torch.ones(2, 2), gaussian(5, 4).reshape(5, 2, 2).float()
    f = closed_form.Distance(centre, -1.0)
    assert torch.allclose(f(x)[:, 0], -torch.tensor([float((a - centre).norm()) for a in x]))
    assert float(taut.lipschitz_bound(f, (2, 2))) == 1.0
    with pytest.raises(ValueError, match=r"`sign` must be 1 or -1; got 2\.0"):
        closed_form.Distance(centre, 2.0)


@pytest.mark.parametrize("span", [1.0, None])
def test_means_stay_within_their_slack_as_often_as_promised(span):
    generator = torch.Generator().manual_seed(0)
    exceeded = 0
    for _ in range(400):
        draws = torch.rand(2, 60, generator=generator, dtype=torch.float64) < 0.5
        p, q = draws.double()
        exceeded += float(p.mean() - q.mean()) > mean_slack(p, q, failure=0.1, span=span)
    assert exceeded <= (0 if span else 60)  # 40 are expected of a quantile that is exact
    assert exceeded >= (0 if span else 20)


def test_slack_shrinks_with_the_sample_and_grows_with_the_dimension():
    small, large, wide = gaussian(50, 2), gaussian(5000, 2), gaussian(50, 20)
    slack = [transport_slack(x, x, failure=0.05, span=None) for x in (small, large, wide)]
    assert slack[1] < slack[0] < slack[2]
    assert transport_slack(small, small, failure=0.05, span=10.0) == pytest.approx(
        10 * math.sqrt(2 / 50 * math.log(20) / 2)
    )


def test_known_domain_makes_the_interval_a_guarantee():
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = x[:50], x[50:] * 0.5
    loose = estimate(p, q, settings=Settings(steps=0))
    tight = estimate(p, q, settings=Settings(steps=0, domain=(0.0, 1.0)))
    assert tight.interval[0] <= loose.interval[0] <= loose.interval[1] < tight.interval[1]
    assert "in the limit of many independent points" in str(loose)
    assert "for any number of independent points" in str(tight)
    with pytest.raises(ValueError, match="`domain` must hold every coordinate of the points; got"):
        estimate(p + 1, q, settings=Settings(steps=0, domain=(0.0, 1.0)))


GOOD = torch.zeros(8, 2)
SHORT = "`q` must have at least 4 points; got"


@pytest.mark.parametrize(
    ("q", "message"),
    [
        (torch.zeros(8, 3), r"`p` and `q` must have points of one shape; got \(2,\) and \(3,\)"),
        (torch.zeros(1, 2), f"{SHORT} 1"),
        (torch.zeros(0, 2), f"{SHORT} 0"),
        ([], f"{SHORT} 0"),
        (
            lambda n: torch.zeros(1, 2),
            r"`q` must return 40 points .* got a tensor of shape \(1, 2\)",
        ),
        (torch.full((8, 2), math.nan), "`q` must be finite; it holds NaN or infinity"),
        (torch.full((8, 2), math.inf), "`q` must be finite; it holds NaN or infinity"),
        (torch.zeros(8, 2, dtype=torch.int64), "`q` must hold real numbers, or pixels as uint8"),
        (torch.zeros(8, 0), "`q` must have points along its first dimension"),
        ([("a", 1)], "`q` must hold tensors, or tuples that begin with one; got str"),
        (lambda n: [1.0], "`q` must give tensors; got list"),
        (
            [torch.zeros(4, 2), torch.zeros(4, 3)],
            r"`q` must have points of one shape; got \(2,\) and \(3,\)",
        ),
        (np.array([{}] * 8), "`q` must hold real numbers that torch knows; got an array of object"),
    ],
)
def test_bad_samples_are_refused_in_a_sentence(q, message):
    with pytest.raises(ValueError, match=message):
        estimate(GOOD, q, settings=QUICK)


def test_bad_critics_are_refused_before_any_work():
    class Unknown(nn.Module):
        def forward(self, x):
            return x.sum(1, keepdim=True).exp()

    def fail(progress):
        raise AssertionError

    with pytest.raises(UnprovenError, match="has no proven bound"):
        estimate(GOOD, GOOD, Unknown(), settings=QUICK, on_progress=fail)
    with pytest.raises(
        ValueError, match=r"`critic` must give one number a point; got shape \(2, 3"
    ):
        estimate(GOOD, GOOD, nn.Linear(2, 3), settings=QUICK, on_progress=fail)
    with pytest.raises(ValueError, match="`input_shape` does not fit the model"):
        estimate(GOOD, GOOD, nn.Linear(3, 1), settings=QUICK, on_progress=fail)


def test_critic_without_slope_proves_nothing():
    flat = nn.Linear(2, 1)
    nn.init.zeros_(flat.weight)
    found = estimate(GOOD, GOOD + 1, flat.requires_grad_(False), settings=QUICK)
    assert (found.lower, found.interval[0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_memory", -1),
        ("steps", -1),
        ("held_out", 1.0),
        ("confidence", 1.0),
        ("lr", 0.0),
        ("domain", (1.0, 0.0)),
    ],
)
def test_bad_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Settings(**{name: value})


def test_critics_of_all_kinds_are_1_lipschitz():
    shape = (3, 9, 8)
    for parametrization, activation in itertools.product(("BCOP", "RKO"), ("MaxMin", "ReLU")):
        options = {"parametrization": parametrization, "activation": activation}
        for model in (
            critics.dcgan(shape, width=2, **options),
            critics.deep(shape, width=2, depth=1, **options),
            critics.dense(shape, width=4, **options),
        ):
            assert float(taut.lipschitz_bound(model.double(), shape)) <= 1 + 1e-6
            assert model(torch.zeros(2, *shape).double()).shape == (2, 1)


def test_bad_critic_options_are_refused():
    with pytest.raises(ValueError, match="`activation` must be MaxMin or ReLU; got 'GELU'"):
        critics.dense((2,), activation="GELU")
    with pytest.raises(ValueError, match=r"`parametrization` must be one of .*; got 'none'"):
        critics.dcgan((1, 8, 8), parametrization="none")
    with pytest.raises(ValueError, match="`width` must be a positive integer; got 0"):
        critics.deep((1, 8, 8), width=0)
