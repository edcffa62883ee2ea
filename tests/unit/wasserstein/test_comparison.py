"""What the critics of a comparison may depend on."""

from dataclasses import replace

import pytest
import torch

from taut.wasserstein import DriftSettings, Settings, estimate
from taut.wasserstein._comparison import Comparison, ComparisonOptions
from taut.wasserstein._samples import Points, read_samples
from taut.wasserstein._scaled import ScaledPair


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 2, generator=generator), 1 + torch.randn(60, 2, generator=generator)


def moved_out(side: Points, factor: float) -> Points:
    held_out = factor * side.held_out
    return replace(side, held_out=held_out, everything=torch.cat([side.seen, held_out]))


def test_critics_and_their_unit_are_functions_of_the_points_seen_alone():
    settings = DriftSettings(steps=5)
    sides = read_samples(*samples(), settings.training)
    found = []
    for factor in (1.0, 3.0, 2.0**60):
        torch.manual_seed(0)
        p, q = (moved_out(side, factor) for side in sides)
        comparison = Comparison((p, q), None, ComparisonOptions(0.05, False, None, settings))
        found.append((comparison, comparison.run()))
    (near, result), (far, _), (apart, outlying) = found
    assert near.pair.exponent == far.pair.exponent < apart.pair.exponent
    for ours, theirs in zip(near.network.parameters(), far.network.parameters(), strict=True):
        assert ours.equal(theirs)
    assert result.lower > 0 == outlying.lower
    assert outlying.alarm


@pytest.mark.parametrize(("domain", "exponent"), [((-64.0, 64.0), 7), ((0.0, 1.0), 0), (None, 3)])
def test_a_domain_is_the_unit_of_its_estimate(domain, exponent, monkeypatch):
    seen, scaled_pair = [], ScaledPair.of
    monkeypatch.setattr(
        ScaledPair, "of", lambda *a, **k: seen.append(scaled_pair(*a, **k)) or seen[-1]
    )
    x = torch.linspace(0.0, 1.0 if domain else 6.0, 40)[:, None]
    estimate(x, x, settings=Settings(steps=0, held_out=0.5, domain=domain))
    assert [pair.exponent for pair in seen] == [exponent]


def test_scores_without_a_range_prove_no_distance():
    settings = DriftSettings(steps=0)
    sides = read_samples(*samples(), settings.training)
    comparison = Comparison(sides, None, ComparisonOptions(0.05, False, None, settings))
    critic = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(critic.weight)
    unclipped = comparison._clipped(critic)
    torch.nn.init.constant_(critic.weight, 2.0**-60)  # as if rounding differed between batches
    tested = comparison._tested(unclipped, torch.Generator())
    assert tested.scores[0].std() > 0
    assert tested.span == 0.0
    assert tested.lower(0.5) == 0.0
