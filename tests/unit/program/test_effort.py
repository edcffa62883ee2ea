"""What is proven within a limit of time or work, and what first."""

import time

import pytest
import torch
from torch import nn

from taut.linalg import proofs
from taut.linalg.operator import NormBound, Proof
from taut.program import Effort, lipschitz_bound
from taut.program._norm_bounds import Norms


def ways(taken, name, *values, work=(1.0, 2.0, 4.0)):
    """Proofs that note when they are taken; the second to last is what others repeat."""

    def proof(value, cost, repeated):
        def bound():
            taken.append((name, value))
            return NormBound(value, "a proof")

        return Proof(bound, float(cost), value, repeated)

    last = len(values) - 2
    return tuple(
        proof(value, cost, place == last)
        for place, (value, cost) in enumerate(zip(values, work, strict=True))
    )


def tightened(effort, **maps):
    norms, taken = Norms(effort), []
    for name, options in maps.items():
        norms.bound(name, ways(taken, name, *options[0], work=options[1]))
    norms.tighten()
    return [norms.bound(name, ()).value for name in maps], taken


def test_without_time_the_cheapest_proofs_are_taken():
    bounds, taken = tightened(Effort(seconds=0.0), a=((3.0, 2.0, 1.0), (1, 2, 4)))
    assert (bounds, taken) == ([3.0], [("a", 3.0)])


def test_with_time_all_are_taken_that_promise_something():
    bounds, _ = tightened(
        Effort(seconds=100.0), a=((3.0, 2.0, 1.0), (1, 2, 4)), b=((3.0, 3.0, 3.0), (1, 2, 4))
    )
    assert bounds == [1.0, 3.0]


def test_what_promises_most_for_its_work_comes_first():
    _, taken = tightened(
        Effort(seconds=100.0),
        dear=((3.0, 2.0, 1.0), (1, 1000, 1000)),
        cheap=((3.0, 2.0, 1.0), (1, 50, 100)),
        flat=((1.1, 1.05, 1.0), (1, 2, 1000)),
    )
    assert taken[:3] == [("dear", 3.0), ("cheap", 3.0), ("flat", 1.1)]
    # log(3) / 100 and log(1.5) / 50 for a multiplication; log(1.1 / 1.05) / 2 is more.
    assert taken[3:] == [("flat", 1.05), ("cheap", 1.0), ("dear", 1.0), ("flat", 1.0)]


def test_no_proof_begins_after_the_time_is_over():
    effort, taken = Effort(seconds=0.05), []
    norms = Norms(effort)

    def slow():
        taken.append(time.monotonic() - effort.begun)
        time.sleep(0.03)
        return NormBound(1.0, "slow")

    for name in "abcdefgh":
        norms.bound(name, (Proof(lambda: NormBound(9.0, "fast"), 0.0, 9.0), Proof(slow, 1.0, 1.0)))
    norms.tighten()
    assert 0 < len(taken) < 8
    assert all(begun < 0.05 for begun in taken)


def test_work_for_tight_bounds_is_limited():
    bounds, _ = tightened(
        Effort(work=5.0), a=((3.0, 1.02, 1.0), (1, 2, 4)), b=((3.0, 1.02, 1.0), (1, 2, 4))
    )
    assert sorted(bounds) == [1.0, 1.02]
    assert tightened(Effort(work=0.0), a=((3.0, 2.0, 1.0), (1, 2, 4)))[0] == [2.0]


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_nets_are_bounded_from_samples(mode, monkeypatch):
    """All first proofs, against the norms that are exact on a torus and the dense ones."""
    torch.manual_seed(0)
    options = {"padding": 1, "padding_mode": mode}
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, **options), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 2, 3, **options),
    ).eval()  # fmt: skip
    sharp = float(lipschitz_bound(model, (2, 24, 24), tight=True))
    plain = float(lipschitz_bound(model, (2, 24, 24), passes=()))
    monkeypatch.setattr(proofs, "_SMALL", 0.0)
    usual = float(lipschitz_bound(model, (2, 24, 24)))
    quick = float(lipschitz_bound(model, (2, 24, 24), seconds=0.0))
    slow = float(lipschitz_bound(model, (2, 24, 24), seconds=60.0))
    assert sharp <= slow * (1 + 1e-9) <= usual * (1 + 1e-6) <= quick
    assert usual <= plain * 1.1
    assert slow <= sharp * 1.001
    again = float(lipschitz_bound(model, (2, 24, 24), tight=True))
    assert again == pytest.approx(sharp, rel=1e-9)
