"""The threshold: its rank against every order of the scores, in rationals."""

import itertools
import math
from fractions import Fraction
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from taut.conformal import conformal_threshold, points_needed

ALPHAS = ["1/2", "1/3", "1/4", "1/10", "9/10", "2/7"]


def slow(scores, alpha):
    """The smallest score with enough others at most as large, counted one by one."""
    n = len(scores)
    for score in sorted(scores):
        # Of n + 1 exchangeable scores a share of at least 1 - alpha must be at most the threshold.
        if Fraction(sum(s <= score for s in scores), n + 1) >= 1 - Fraction(alpha):
            return score
    return math.inf


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", range(7))
def test_each_order_of_exchangeable_scores_is_covered_often_enough(n, alpha):
    """All that exchangeability says: of n + 1 scores each is the new one equally often."""
    for scores in ([*range(n + 1)], [s // 2 for s in range(n + 1)], [0] * (n + 1)):
        hits = 0
        for new in range(n + 1):
            others = scores[:new] + scores[new + 1 :]
            threshold = conformal_threshold(torch.tensor(others, dtype=torch.float64), alpha)
            assert threshold == slow(others, alpha)
            hits += scores[new] <= threshold
        assert Fraction(hits, n + 1) >= 1 - Fraction(alpha)
        if scores == [*range(n + 1)]:  # no label more than needed
            assert Fraction(hits - 1, n + 1) < 1 - Fraction(alpha)


def test_order_of_the_scores_does_not_count():
    scores = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0])
    found = {
        conformal_threshold(scores[list(order)], "1/3")
        for order in itertools.permutations(range(5))
    }
    assert found == {4.0}


def test_alpha_is_exact():
    """The float 0.1 is above 1/10, 0.7 is below 7/10: the ranks of 9 scores differ accordingly."""
    scores = torch.arange(1.0, 10.0)
    assert conformal_threshold(scores, 0.1) == conformal_threshold(scores, "1/10") == 9.0
    assert conformal_threshold(scores, Fraction(7, 10)) == 3.0
    assert conformal_threshold(scores, 0.7) == 4.0
    assert conformal_threshold(scores, "0.7") == 3.0


@pytest.mark.parametrize("alpha", [*ALPHAS, "1/1000"])
def test_too_few_points_give_no_finite_threshold(alpha):
    n = points_needed(alpha)
    assert conformal_threshold(torch.zeros(n), alpha) == 0.0
    assert conformal_threshold(torch.zeros(n - 1), alpha) == math.inf


def test_infinite_scores_are_the_largest():
    scores = torch.tensor([math.inf, -math.inf, 0.0, 1.0])
    assert conformal_threshold(scores, "1/5") == math.inf
    assert conformal_threshold(scores, "2/5") == 1.0


def test_wrong_arguments_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    numbers: Any = [0.0]
    half: Any = np.float32(0.5)
    wrong: list[Any] = [0, 1, -0.1, 1.5, math.nan, "x", None, np.float64(1)]
    for alpha in wrong:
        with pytest.raises(ValueError, match=r"`alpha` must be in \(0, 1\)"):
            conformal_threshold(torch.zeros(9), alpha)
    for scores in (torch.zeros(2, 2), torch.tensor([0.0, math.nan])):
        with pytest.raises(ValueError, match="`scores` must be a vector without NaN"):
            conformal_threshold(scores, 0.1)
    with pytest.raises(ValueError, match="`scores` must be a torch"):
        conformal_threshold(numbers, 0.1)
    assert conformal_threshold(torch.zeros(30), half) == 0.0
