"""Settings of the dataclasses that a recipe is made of, as users give them from Python."""

import dataclasses
import itertools
import math
from fractions import Fraction
from typing import Any

import jaxtyping
import numpy as np
import pytest

from taut import losses, models
from taut.data import Augment, Holdout
from taut.kinds import exported
from taut.training import Recipe, _schedules

SCHEDULES = exported(vars(_schedules), _schedules.AbstractSchedule)
PARTS = (models.kinds(), losses.kinds(), SCHEDULES)
CLASSES = [*itertools.chain(*(kinds.values() for kinds in PARTS)), Augment, Holdout, Recipe]
REQUIRED: dict[type, dict[str, Any]] = {
    Holdout: {"fraction": 0.5},
    Recipe: {"name": "mine", "dataset": "mnist"},
}
TYPES = bool | int | float | tuple
WRONG = ("x", None, math.nan, math.inf, -1, [None], b"1", 1j, {}, ("x",), np.float32("nan"))


@pytest.fixture(autouse=True)
def as_users_run_it(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def _settings(cls):
    """The numbers, switches and tuples of a class, and a valid value of each."""
    made = cls(**REQUIRED.get(cls, {}))
    return {one.name: vars(made)[one.name] for one in dataclasses.fields(cls) if one.init}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_setting_that_is_no_value_of_its_kind_is_refused_in_one_sentence(cls):
    for name, value in _settings(cls).items():
        if not isinstance(value, TYPES):
            continue
        wrong = WRONG if isinstance(value, bool | tuple) else (*WRONG, True)
        allowed = (None,) if name == "validation" else ()
        for other in wrong if not isinstance(value, bool) else (*wrong, 0, 1, "false"):
            if other in allowed:
                continue
            with pytest.raises(ValueError, match=rf"^(Each of )?`{name}` [^\n]*; got [^\n]*\.$"):
                cls(**REQUIRED.get(cls, {}) | {name: other})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_numbers_of_numpy_and_fractions_become_plain(cls):
    for name, value in _settings(cls).items():
        others = []
        if isinstance(value, bool):
            others = [np.bool_(value)]
        elif isinstance(value, int):
            others = [np.int64(value)]
        elif isinstance(value, float):
            others = [np.float64(value), Fraction(value)]
        elif isinstance(value, tuple):
            others = [list(value)]
        for other in others:
            changed = cls(**REQUIRED.get(cls, {}) | {name: other})
            assert (type(vars(changed)[name]), vars(changed)[name]) == (type(value), value)


@pytest.mark.parametrize("cls", [losses.EMMA, losses.CertifiedTRADES])
def test_radii_are_numbers_or_texts(cls):
    assert cls("1/4").eps == "1/4"
    assert [cls(eps).eps for eps in (Fraction(1, 4), np.float32(0.25))] == [0.25, 0.25]
    for wrong in (True, b"1", math.nan, math.inf, 0, -1, "x", "1/0", None, [0.25], 10**400):
        with pytest.raises(ValueError, match=r"`eps` must be a positive number or a text like"):
            cls(wrong)


def test_parts_of_a_recipe_that_are_no_parts_are_refused_by_name():
    sentences = {
        "augment": "`augment` must be None or of taut.data.Augment; got 3.",
        "holdout": "`holdout` must be None or of taut.data.Holdout; got 3.",
        "name": "`name` must be a text; got 3.",
        "dataset": "`dataset` must be a text; got 3.",
    }
    for name, sentence in sentences.items():
        settings: dict[str, Any] = REQUIRED[Recipe] | {name: 3}
        with pytest.raises(ValueError, match=sentence):
            Recipe(**settings)
