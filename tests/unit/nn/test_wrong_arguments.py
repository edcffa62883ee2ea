"""Wrong arguments of layers: a ValueError of one sentence that names the argument."""

import math
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

import taut

LAYERS = {
    "`beta`": taut.nn.Abs,
    "`channels`": taut.nn.BatchCentering,
    "`momentum`": lambda value: taut.nn.BatchCentering(3, momentum=value),
    "`numerical_eps`": lambda value: taut.nn.BatchLipNorm(3, numerical_eps=value),
    "`range`": lambda value: taut.nn.LinearSpline(4, range=value),
    "`radius`": lambda value: taut.nn.SOC2d(4, 4, 3, radius=value),
    "`kernel_size`": lambda value: taut.nn.L2NormPool2d(value),
    "`parametrization`": lambda value: taut.nn.Sandwich2d(4, 4, parametrization=value),
    "`f`": taut.nn.SplitResidual,
}
DIMS = [
    lambda dim: taut.nn.Abs(dim=dim),
    lambda dim: taut.nn.ConcatResidual(nn.Identity(), dim),
    lambda dim: taut.nn.FullSort(dim),
    lambda dim: taut.nn.HouseHolder(4, dim=dim),
    lambda dim: taut.nn.LayerCentering(dim),
    lambda dim: taut.nn.LinearSpline(4, dim=dim),
    lambda dim: taut.nn.NActivation(4, dim=dim),
    lambda dim: taut.nn.SplitResidual(nn.Identity(), dim),
]


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", ["3", (1, 2, 3), math.nan, torch.tensor(2.5)], ids=str)
def test_wrong_types_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        LAYERS[name](value)


@pytest.mark.parametrize("layer", DIMS)
@pytest.mark.parametrize("value", ["1", 1.5, None, True])
def test_axes_are_integers(layer, value):
    with pytest.raises(ValueError, match=r"^`dim` must"):
        layer(value)


def test_other_classes_are_no_parametrization():
    other: Any = nn.ReLU
    with pytest.raises(ValueError, match=r"^`parametrization` must be a class of"):
        taut.nn.Conv2d(4, 4, 3, parametrization=other)


@pytest.mark.parametrize("shape", [(), (3,), (1, 1, 4, 4, 4)])
@pytest.mark.parametrize("layer", [taut.nn.L2NormPool2d(2), taut.nn.AdaptiveL2NormPool2d(1)])
def test_pools_name_inputs_of_other_axes(layer, shape):
    with pytest.raises(ValueError, match=r"^`input` must have shape \(c, h, w\)"):
        layer(torch.zeros(shape))


def test_padding_of_pools_is_at_most_half_of_a_window():
    with pytest.raises(ValueError, match="`padding` must be at most half"):
        taut.nn.L2NormPool2d(2, padding=2)
