"""Tests for drift in streams: windows, levels of a stream, points of any scale and precision."""

import math

import pytest
import torch

from taut.wasserstein import Drift, DriftMonitor, DriftSettings, critics

CLOSED = DriftSettings(steps=0)
QUICK = DriftSettings(steps=5, batch_size=16)


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_reference_may_be_batches_that_come_once():
    batches = iter(gaussian(40, 2).split(10))
    monitor = DriftMonitor(batches, window=20, settings=CLOSED)
    assert isinstance(monitor.update(gaussian(20, 2, seed=1)), Drift)


def test_windows_of_a_stream_are_tested_in_turn():
    reference = gaussian(200, 2)
    monitor = DriftMonitor(reference, window=50, level=0.01, settings=CLOSED)
    assert monitor.update(gaussian(30, 2, seed=1)) is None
    first = monitor.update(gaussian(30, 2, seed=2))
    assert isinstance(first, Drift)
    assert (monitor.windows, len(first.scores[1])) == (1, 25)  # the first window is cut
    second = monitor.update(gaussian(40, 2, seed=3).numpy())
    assert second is not None
    assert len(second.scores[1]) == 50  # all of a later window tests
    moved = torch.cat([gaussian(50, 2, seed=4) + 3, gaussian(50, 2, seed=5)])
    third = monitor.update(moved)
    assert third is not None
    assert third.alarm
    assert monitor.windows == 4
    assert 3 in monitor.alarms


def test_critics_of_a_window_have_not_seen_it():
    """Two windows that differ only in the last have one critic."""
    critic = critics.dense((2,), width=4, depth=1)
    found = []
    for last in (gaussian(20, 2, seed=7), gaussian(20, 2, seed=8) / 2):
        last[0] = torch.tensor([0.1, 0.1])
        monitor = DriftMonitor(
            gaussian(60, 2), window=20, critic=critic, settings=QUICK, standardise=True
        )
        monitor.update(gaussian(20, 2, seed=1))
        result = monitor.update(last)
        assert result is not None
        found.append(result.critic.double()(gaussian(5, 2, seed=9)))
    assert torch.allclose(*found, atol=1e-6)


def test_false_alarms_of_a_whole_stream_are_bounded():
    level, streams, alarms = 0.3, 8, 0
    for seed in range(streams):
        settings = DriftSettings(steps=0, permutations=99, seed=100 * seed)
        monitor = DriftMonitor(
            gaussian(60, 2, seed=seed), window=24, level=level, whole_stream=True, settings=settings
        )
        monitor.update(gaussian(24 * 3, 2, seed=1000 + seed))
        alarms += bool(monitor.alarms)
    assert alarms <= streams * level + 3 * math.sqrt(streams * level * (1 - level))


def test_levels_of_a_stream_sum_to_its_level():
    monitor = DriftMonitor(gaussian(20, 1), window=10, level=0.05, whole_stream=True)
    total = sum(monitor.level_of(k) for k in range(1, 20001))
    assert 0.0499 < total < 0.05
    # Late windows can still alarm: a level below 1 / (permutations + 1) has p-values below.
    settings = DriftSettings(steps=0, permutations=19)
    monitor = DriftMonitor(
        gaussian(400, 1), window=100, level=0.05, whole_stream=True, settings=settings
    )
    for seed in range(1, 4):
        monitor.update(gaussian(100, 1, seed=seed))
    result = monitor.update(gaussian(100, 1, seed=9) + 4)
    assert result is not None
    assert result.level < 1 / 20
    assert result.alarm
    assert result.p_value < 1e-6


@pytest.mark.parametrize(
    ("arguments", "points", "message"),
    [
        ({"window": 3}, None, "`window` must be at least 4; got 3"),
        ({"memory": 0}, None, "`memory` must be a positive integer"),
        ({"level": 1.0}, None, "`level` must be between 0 and 1"),
        ({}, torch.zeros(5, 3), r"`points` must have the shape of the reference's, \(2,\); got"),
        ({}, torch.full((5, 2), math.inf), "`points` must be finite"),
    ],
)
def test_wrong_use_of_a_monitor_is_one_sentence(arguments, points, message):
    with pytest.raises(ValueError, match=message):
        DriftMonitor(torch.zeros(9, 2), **{"window": 5} | arguments).update(points)


@pytest.mark.parametrize("known", [torch.zeros(40, 2), torch.zeros(40, 2).double()])
def test_points_unlike_constant_ones_are_found_at_once(known):
    monitor = DriftMonitor(known, window=20, settings=CLOSED)
    monitor.update(known[:20])
    result = monitor.update(known[:20] + 1)
    assert result is not None
    assert result.alarm
    assert result.lower == 0.0  # the range of unseen scores is unknown


def test_points_are_tested_in_the_precision_they_come_in():
    monitor = DriftMonitor(gaussian(60, 2).float(), window=20, settings=CLOSED)
    monitor.update(gaussian(20, 2, seed=1))
    result = monitor.update(1e60 + gaussian(20, 2, seed=2))  # infinite in float32
    assert result is not None
    assert result.alarm


@pytest.mark.parametrize("settings", [CLOSED, QUICK])
def test_a_window_of_another_scale_does_not_end_the_stream(settings):
    monitor = DriftMonitor(gaussian(60, 2), window=20, memory=1, settings=settings)
    for seed, scale in enumerate((1.0, 1e200, 1.0, 1.0, 1.0)):
        monitor.update(scale * gaussian(20, 2, seed=seed + 1))
    assert monitor.alarms == [2]


def test_late_windows_without_reach_do_not_end_the_stream():
    settings = DriftSettings(steps=0, permutations=99)
    monitor = DriftMonitor(
        gaussian(12, 1), window=4, level=0.9, whole_stream=True, settings=settings
    )
    for seed in range(30):
        monitor.update(gaussian(4, 1, seed=seed))
    assert monitor.windows == 30
    with pytest.raises(ValueError, match=r"`level` must be at least 0.01, the least p-value"):
        DriftMonitor(gaussian(12, 1), window=4, level=0.004, settings=settings)


class Sensor(torch.utils.data.Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, index):
        return torch.full((1,), float(index))


def test_no_point_of_a_stream_is_left_out():
    settings = DriftSettings(steps=0, samples=10)
    monitor = DriftMonitor(gaussian(60, 1), window=15, settings=settings)
    result = monitor.update(Sensor())
    assert result is not None
    assert (monitor.windows, result.sizes) == (2, (60, 15))
