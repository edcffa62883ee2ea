"""One convention for eps: a number, a fraction, a string, or a sequence of these."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from taut.certification import as_eps_sequence


@pytest.mark.parametrize(
    ("eps", "values"),
    [
        (0.1, (0.1,)),
        (2, (2,)),
        (Fraction(8, 255), (Fraction(8, 255),)),
        ("8/255", ("8/255",)),
        (("8/255", 0.5), ("8/255", 0.5)),
        ([1, "0.3"], (1, "0.3")),
        (np.float32(0.5), (0.5,)),
        (np.array([0.5, 0.25]), (0.5, 0.25)),
        (torch.tensor(0.5), (0.5,)),
        (torch.tensor([0.5, 0.25]), (0.5, 0.25)),
        ([np.float64(0.5), torch.tensor(0.25)], (0.5, 0.25)),
    ],
)
def test_one_radius_or_several_are_read_as_given(eps, values):
    for positive in (False, True):
        read = as_eps_sequence(eps, positive=positive)
        assert read == values
        assert [type(value) for value in read] == [type(value) for value in values]


def test_zero_and_no_radius_at_all_are_read_unless_positive_ones_are_asked_for():
    assert as_eps_sequence([0, "0"]) == (0, "0")
    assert as_eps_sequence(()) == ()
    for eps in (0, ("0.1", 0.0), "0", (), "1e-400", "1e400", [10**400]):
        with pytest.raises(ValueError, match=r"^`eps` must be a positive number or a string .*\.$"):
            as_eps_sequence(eps, positive=True)


@pytest.mark.parametrize(
    "eps",
    [
        *(None, "big", "1/0", "0.1,0.2", "1e99999", b"1", -0.1, float("nan"), float("inf"), 1j),
        *([0.1, None], [[0.1]], {"0.1": 1}, {0.1}, ("8/255", "x"), torch.tensor([0.1, -0.1])),
    ],
)
def test_anything_else_is_refused_in_one_sentence(eps):
    for positive in (False, True):
        with pytest.raises(ValueError, match=r"^`eps` must be a [^\n]*; got eps=.*\.$"):
            as_eps_sequence(eps, positive=positive)
