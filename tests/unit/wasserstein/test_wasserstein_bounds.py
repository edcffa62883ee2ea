"""Both sides hold in exact arithmetic: at any scale, for equal points, for weighted points."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

import taut
from taut.program import UnprovenError
from taut.wasserstein import Settings, critics, estimate
from taut.wasserstein import _exact as exact
from taut.wasserstein._plan import Masses

WHOLE = Settings(steps=0, held_out=0.0)
QUICK = Settings(steps=4, checks=2, batch_size=16)


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decimal_distance(a, b):
    """In the precision of the context, from the exact values of the floats."""
    squares = ((Decimal(x) - Decimal(y)) ** 2 for x, y in zip(a, b, strict=True))
    return sum(squares, Decimal(0)).sqrt()


def assert_truth_between(result, p, q):
    """The truth: the best of all matchings, to 60 digits."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -9999, 9999
        costs = [[decimal_distance(a, b) for b in q.tolist()] for a in p.tolist()]
        orders = itertools.permutations(range(len(q)))
        sums = (sum(costs[i][j] for i, j in enumerate(order)) for order in orders)
        truth = min(sums) / len(p)
        slack = truth * Decimal(10) ** -50  # of the roots
        assert Decimal(result.lower) <= truth + slack
        assert Decimal(result.upper) >= truth - slack
    assert result.lower <= result.upper


def numbers(result):
    return [
        result.lower,
        result.upper,
        *result.interval,
        *(value for row in result.history for value in (row.lower, row.upper)),
        *result.candidates.values(),
        *torch.cat(result.scores).tolist(),
    ]


@pytest.mark.parametrize(
    ("shape", "exponent"),
    [
        *zip([(1,), (2,), (2,)], [-900, -27, 900], strict=True),
        ((1, 8, 8), 146),
    ],
)
def test_powers_of_two_pass_through(shape, exponent):
    p = gaussian(24, math.prod(shape)).reshape(-1, *shape)
    q = gaussian(20, math.prod(shape), seed=1).reshape(-1, *shape) + 0.3
    first = estimate(p, q, settings=QUICK)
    second = estimate(p * 2.0**exponent, q * 2.0**exponent, settings=QUICK)
    assert second.chosen == first.chosen
    assert numbers(second) == [math.ldexp(value, exponent) for value in numbers(first)]
    mixed = torch.cat([p, q]) * 2.0**exponent
    with torch.no_grad():  # the critic is one for the points as they were given
        scores = second.critic.double()(mixed.double()).flatten()
    rise = scores[:24].mean() - scores[24:].mean()
    bound = float(taut.lipschitz_bound(second.critic, shape))
    assert bound == pytest.approx(float(second.bound), rel=1e-12)
    with torch.no_grad():
        before = first.critic.double()(torch.cat([p, q])).flatten()
    expected = math.ldexp(float(before[:24].mean() - before[24:].mean()), exponent)
    assert float(rise) == pytest.approx(expected, rel=1e-6)


def test_default_network_is_given_back_for_points_of_any_scale(monkeypatch):
    monkeypatch.setattr("taut.wasserstein._estimate._Estimation._closed_forms", lambda *_, **__: {})
    p, q = gaussian(40, 2), gaussian(40, 2, seed=1) + 1
    for exponent in (0, 300):
        x, y = p * 2.0**exponent, q * 2.0**exponent
        result = estimate(x, y, settings=replace(QUICK, steps=10, held_out=0.0))
        dtype = next(result.critic.parameters()).dtype
        assert dtype == (torch.float64 if exponent else torch.float32)
        with torch.no_grad():
            critic = result.critic.double()
            rise = float(critic(x).mean() - critic(y).mean()) / float(result.bound)
        assert rise == pytest.approx(result.lower, rel=1e-6)
        assert 0 < result.lower <= result.upper


@pytest.mark.parametrize("scale", [1e-16, 1e-250, 1e44])
def test_scaled_clouds_have_scaled_distances(scale):
    p, q = gaussian(40, 3), gaussian(30, 3, seed=1) + 1
    for settings in (QUICK, replace(QUICK, steps=1, max_memory=40 * 20**2)):
        first = estimate(p, q, settings=settings)
        second = estimate(p * scale, q * scale, settings=settings)
        assert second.notes == first.notes
        assert (second.empirical is None) == (first.empirical is None)
        for a, b in zip(numbers(first)[:4], numbers(second)[:4], strict=True):
            assert b == pytest.approx(a * scale, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-100, 1e44])
def test_own_critics_take_points_as_they_are_given(scale):
    p, q = gaussian(60, 2) * scale, (gaussian(50, 2, seed=1) + 1) * scale
    fixed = nn.Linear(2, 1, bias=False).double().requires_grad_(False)
    fixed.weight.copy_(torch.tensor([[-0.6, -0.8]]))
    learning = critics.dense((2,), width=4, depth=1).double()
    for critic in (fixed, learning):
        result = estimate(p, q, critic, settings=QUICK)
        assert 0 <= result.lower <= result.upper == result.empirical
        assert critic is learning or result.lower > 0.5 * result.upper
        with torch.no_grad():
            rise = float(result.critic(p).mean() - result.critic(q).mean())
        assert result.lower <= max(0.0, rise / float(result.bound)) * (1 + 1e-9)


SETS = {
    "one tiny distance": ([[0.0], [1.0]], [[1e-200], [1.0]]),
    "equal but for a subnormal": ([[1.0, 0.0]] * 3, [[1.0, 5e-324]] * 3),
    "subnormal root": ([[0.0, 0.0]] * 2, [[5e-324, 5e-324]] * 2),
    "subnormal alone": ([[5e-324], [1e-323]], [[0.0], [2e-323]]),
    "large constant": ([[1e300, 0.0], [1e300, 1e-300]], [[1e300, 3e-300], [1e300, 2e-300]]),
    "large and tiny": ([[1e300, 0.0], [-1e300, 1e-300]], [[1e300, 3e-300], [-1e300, 2e-300]]),
    "far from the origin": ([[1e7, 1e7], [1e7 + 1, 1e7]], [[1e7 + 2.0**-20, 1e7], [1e7, 1e7]]),
    "equal": ([[0.1, 0.7], [0.3, 1e-9], [5.0, 1e5]], [[5.0, 1e5], [0.1, 0.7], [0.3, 1e-9]]),
    "all equal": ([[0.1, 3.0]] * 3, [[0.1, 3.0]] * 3),
    "zero": ([[0.0]] * 2, [[0.0]] * 2),
    "beyond a float": ([[1.7e308], [1.7e308]], [[-1.7e308], [-1.7e308]]),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("max_memory", [0, 1 << 30])
def test_truth_lies_between_for_points_of_mixed_scales(name, max_memory):
    p, q = (torch.tensor(side, dtype=torch.float64) for side in SETS[name])
    settings = replace(WHOLE, steps=1 if max_memory else 0, batch_size=4, max_memory=max_memory)
    result = estimate(p, q, settings=settings)
    assert_truth_between(result, p, q)
    assert max_memory == 0 or result.empirical is not None
    if "equal" in name and "but" not in name:
        assert result.upper == 0.0 or max_memory == 0
    if name == "one tiny distance" and max_memory:
        assert result.upper < 0.51e-200


@pytest.mark.parametrize("seed", range(6))
def test_truth_lies_between_for_exponents_at_random(seed):
    random = torch.Generator().manual_seed(seed)
    spread = (0, 60, 600)[seed % 3]

    def points(n, d):
        exponents = torch.randint(-spread, spread + 1, (n, d), generator=random)
        return torch.randn(n, d, generator=random).double() * 2.0 ** exponents.double()

    p, q = points(4, 1 + seed % 4), points(4, 1 + seed % 4)
    q[0] = p[2]
    for critic in (None, nn.Linear(p.shape[1], 1).double()):
        assert_truth_between(estimate(p, q, critic, settings=WHOLE), p, q)


@pytest.mark.parametrize("held_out", [0.0, 1 / 3])
def test_equal_samples_are_at_distance_0(held_out):
    for seed in range(3):
        p = gaussian(40, 1 + seed, seed) * 10.0 ** (6 * seed - 9)
        q = p[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
        for critic in (None, critics.dense((1 + seed,), width=8, depth=1)):
            result = estimate(p, q, critic, settings=replace(QUICK, held_out=held_out))
            assert (result.lower, result.upper) == (0.0, 0.0)
            assert result.interval[0] <= result.interval[1]
            assert math.copysign(1, result.lower) == 1


def test_the_excess_of_scores_is_never_too_small(monkeypatch):
    for seed in range(6):
        random = torch.Generator().manual_seed(seed)
        x = gaussian(7, 1 + 2 * seed, seed) * 10.0 ** (30 * (seed % 3))
        y = torch.cat([x[:3], gaussian(4, 1 + 2 * seed, seed + 50)])
        bound = (1.0, 0.3, 1e-3)[seed % 3]
        s, t = (torch.randn(7, generator=random).double() for _ in range(2))
        if seed % 2:  # dual feasible in exact arithmetic, tight for some pairs
            s = torch.cdist(x, y[:1]).flatten() * bound
            t = torch.cdist(y, y[:1]).flatten() * bound
        with localcontext() as context:
            context.prec = 60
            truth = max(
                Decimal(a) - Decimal(b) - Decimal(bound) * decimal_distance(u, v)
                for a, u in zip(s.tolist(), x.tolist(), strict=True)
                for b, v in zip(t.tolist(), y.tolist(), strict=True)
            )
            results = []
            for size in (1 << 22, 10, 1):
                monkeypatch.setattr(exact, "_NUMBERS", size)
                excess = exact.largest_excess((x, y), (s, t), bound)
                results.append(excess)
                value = Decimal(excess.numerator) / Decimal(excess.denominator)
                assert value >= truth - abs(truth) * Decimal(10) ** -50
                largest = Decimal(float(s.abs().max() + t.abs().max()))
                slack = Decimal(10) ** -12 * largest + Decimal("1e-300")
                assert value <= max(truth, Decimal(0)) + slack


def test_critics_that_contradict_their_bound_are_refused():
    class Growing(nn.Module):
        """Scores depend on the size of the batch, which a tracer may take for a constant."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1)

        def forward(self, x):
            return self.fc(x) * (1 + 100 * (x.shape[0] // 4))

    with pytest.raises(UnprovenError):
        estimate(gaussian(40, 2), gaussian(40, 2, seed=1), Growing(), settings=QUICK)


def test_scores_that_overflow_prove_nothing():
    steep = nn.Linear(1, 1).double()
    nn.init.constant_(steep.weight, 1e200)
    p = gaussian(20, 1) * 1e200
    result = estimate(p, p + 1e201, steep.requires_grad_(False), settings=QUICK)
    assert (result.lower, result.interval[0]) == (0.0, 0.0)
    assert result.upper == pytest.approx(1e201)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            lambda n: torch.zeros(n - 1, 2),
            r"`q` must return 40 points when it is called with 40; g",
        ),
        (lambda n: torch.zeros(n + 1, 2), r"got a tensor of shape \(41, 2\)"),
        (lambda n: torch.zeros(n, 2)[: 39 if n == 40 else n], r"got a tensor of shape \(39, 2\)"),
        (
            lambda n: torch.zeros(n, 2 if torch.rand(()) < 0.5 else 3),
            r"`q` must return 40 points of shape \(2,\) when .* \(40, 3\)",
        ),
        (
            lambda n: torch.zeros(40, 2),  # only as many as the first time
            r"`q` must return 16 points of shape \(2,\) when it is called with 16; .* \(40, 2\)",
        ),
    ],
)
def test_samplers_must_return_the_points_asked_for(sampler, message):
    with pytest.raises(ValueError, match=message):
        estimate(gaussian(40, 2), sampler, settings=replace(QUICK, samples=40))


def test_samplers_may_be_asked_for_small_batches():
    sampler = lambda n: torch.randn(n, 2)  # noqa: E731
    result = estimate(sampler, sampler, settings=replace(QUICK, samples=40, batch_size=2))
    assert result.sizes == (40, 40)


def test_histograms_have_the_distance_of_their_weights():
    bins = torch.arange(4.0)[:, None]
    result = estimate(bins, bins, weights=([3, 2, 1, 4], [1, 2, 4, 3]))
    assert 0.5 <= result.upper == result.empirical < 0.5 + 1e-15
    assert 0.5 - 1e-14 < result.lower <= 0.5
    assert result.interval == (result.lower, result.upper)
    assert "samples themselves" in result.guarantee
    few = estimate(bins[:2], bins[:3], weights=([1, 0], [0, 0, 5.0]), settings=WHOLE)
    assert 2 - 1e-14 < few.lower <= 2 <= few.upper < 2 + 1e-14
    tenths, tens = [0.1, 0.2, 0.3, 0.4], [10, 20, 30, 40]
    same = estimate(bins, bins, weights=(tenths, tens), settings=WHOLE)
    assert 0 == same.lower <= same.upper < 1e-10


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("max_memory", [1 << 30, 40 * 4**2])
def test_weighted_points_on_a_line(seed, max_memory):
    random = torch.Generator().manual_seed(seed)
    p, q = gaussian(30, 1, seed), gaussian(20, 1, seed + 9) + 0.3 * seed
    weights = [torch.rand(n, generator=random, dtype=torch.float64) for n in (30, 20)]
    weights[0][:5] = 0
    weights[seed % 2] = (5 * weights[seed % 2]).round()
    pair = [w.numpy() for w in weights]
    truth = wasserstein_distance(p[:, 0].numpy(), q[:, 0].numpy(), *pair)
    settings = replace(QUICK, max_memory=max_memory)
    critic = critics.dense((1,), width=8, depth=1)
    for own in (None, critic):
        result = estimate(p, q, own, weights=tuple(weights), settings=settings)
        assert 0 < result.lower <= truth * (1 + 1e-12)
        assert result.upper >= truth * (1 - 1e-12)
        if max_memory > 1 << 20:
            assert result.empirical == pytest.approx(truth, rel=1e-9)
            assert own is not None or result.lower == pytest.approx(truth, rel=1e-9)
    one = estimate(p, q, weights=(weights[0], None), settings=settings)
    assert one.upper >= wasserstein_distance(p[:, 0], q[:, 0], pair[0]) * (1 - 1e-12)


def test_equal_weights_change_nothing():
    p, q = gaussian(12, 2), gaussian(8, 2, seed=1)
    plain = estimate(p, q, settings=WHOLE)
    weighted = estimate(p, q, weights=(torch.full((12,), 7), torch.full((8,), 0.25)))
    assert weighted.upper == pytest.approx(plain.upper, rel=1e-11)
    assert weighted.lower == pytest.approx(plain.lower, rel=1e-9)


def test_units_of_weights_are_feasible_and_their_error_is_counted():
    for _ in range(4):
        p, q = (torch.rand(n, dtype=torch.float64) ** 20 for n in (9, 5))
        masses = Masses.of(p, q)
        assert int(masses.supply.sum()) == int(masses.demand.sum())
        moved = Fraction(0)
        for weights, units in ((p, masses.supply), (q, masses.demand)):
            total, all_units = sum(map(Fraction, weights.tolist())), int(units.sum())
            pairs = zip(weights.tolist(), units.tolist(), strict=True)
            moved += sum(abs(Fraction(w) / total - Fraction(u, all_units)) for w, u in pairs) / 2
        assert masses.misplaced == moved < 2.0**-35


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (([1, 2], None), r"`weights` must be one number for each of the 8 points of `p`; got .*2,"),
        ((None, [-1.0] + [1.0] * 7), "`weights` of `q` must be finite, at least 0, and not all 0"),
        ((None, [0.0] * 8), "`weights` of `q` must be finite, at least 0, and not all 0"),
        (([math.nan] * 8, None), "`weights` of `p` must be finite, at least 0, and not all 0"),
        (([math.inf] * 8, None), "`weights` of `p` must be finite, at least 0, and not all 0"),
    ],
)
def test_bad_weights_are_refused_in_a_sentence(weights, message):
    with pytest.raises(ValueError, match=message):
        estimate(torch.zeros(8, 2), torch.zeros(8, 2), weights=weights)


def test_samplers_have_no_weights():
    with pytest.raises(ValueError, match="`weights` must be None for `q`: a sampler has no points"):
        estimate(torch.zeros(8, 2), lambda n: torch.zeros(n, 2), weights=(None, [1.0] * 8))


@pytest.mark.parametrize("points", [torch.rand(8), torch.rand(8).numpy(), [torch.rand(8)]])
def test_points_on_a_line_need_a_second_dimension(points):
    with pytest.raises(
        ValueError, match=r"got shape \(8,\): points on a line are x\[:, None\], the"
    ):
        estimate(points, torch.zeros(8, 1))


ALONE = """
import sys

for name in ("ot", "scipy", "PIL", "matplotlib", "jinja2", "tyro", "rich", "lightning_fabric"):
    sys.modules[name] = None  # as if it were not installed

import torch
from taut.wasserstein import Settings, estimate

x = torch.arange(12.0).reshape(6, 2)

def fail(progress):
    raise AssertionError

for settings in (Settings(steps=9), Settings(steps=9, domain=(0.0, 99.0))):
    try:
        estimate(x, x + 1, settings=settings, on_progress=fail)
    except ImportError as error:
        print(error)
for options in ({"domain": (0.0, 99.0)}, {"held_out": 0.0}):
    result = estimate(x, x + 1, settings=Settings(steps=2, max_memory=0, **options))
    print(f"{result.upper:.7g}")
"""


def test_the_core_packages_are_enough_but_for_exact_transport():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "An interval without `domain` needs `scipy`: install the extra `wasserstein` "
        "(pip install 'taut[wasserstein]'), or set `domain` or `held_out=0`.",
        "An optimal transport plan needs `ot`: install the extra `wasserstein` "
        "(pip install 'taut[wasserstein]'), or set `max_memory=0` for another feasible plan.",
        "1.414214",
        "1.414214",
    ]
