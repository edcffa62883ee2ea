"""Numbers of numpy count as those of Python: sizes, shapes, arguments of layers, radii."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import taut


def n(value: int) -> np.int64:
    return np.int64(value)


def sizes_of_layers():
    for sizes in (n(3), (n(3), n(3)), [3, 3], np.array([3, 3]), torch.Size([3, 3])):
        layer = taut.nn.Conv2d(n(2), n(4), sizes, stride=n(1), padding=n(1), groups=n(1))
        assert layer(torch.zeros(1, 2, 5, 5)).shape == (1, 4, 5, 5)
        assert [type(size) for size in layer.kernel_size] == [int, int]
    series = taut.nn.SOC2d(n(2), n(4), n(3), n(2), groups=n(2), dilation=n(1), degree=n(4))
    assert series(torch.zeros(1, 2, 5, 5)).shape == (1, 4, 3, 3)
    assert taut.Householder(n(3), n(3), reflections=n(2)).weight().shape == (3, 3)
    assert taut.LiRes(n(3), n(3), depth=n(2)).weight().shape == (3, 3)
    assert taut.nn.Linear(n(3), n(2))(torch.zeros(1, 3)).shape == (1, 2)
    assert taut.nn.GroupSort(n(2))(torch.zeros(1, 4)).shape == (1, 4)
    assert taut.nn.InvertibleDownsample2d(n(2))(torch.zeros(1, 1, 4, 4)).shape == (1, 4, 2, 2)
    assert taut.nn.InvertibleUpsample1d(n(2))(torch.zeros(1, 2, 4)).shape == (1, 1, 8)
    assert taut.nn.L2NormPool2d(n(2), (n(1), n(2))).stride == (1, 2)
    assert taut.nn.AdaptiveL2NormPool2d(n(1)).output_size == (1, 1)
    assert taut.nn.ScaledAdaptiveAvgPool2d((n(2), None)).output_size == (2, None)
    assert taut.nn.LayerCentering(n(-1), (n(3),)).bias.shape == (3,)
    assert taut.nn.BatchLipNorm(n(3))(torch.rand(2, 3)).shape == (2, 3)
    assert taut.wasserstein.critics.dense((n(3),), width=n(2), depth=n(1)) is not None
    x, settings = torch.eye(8), taut.wasserstein.DriftSettings(steps=0)
    drifted = taut.wasserstein.drift(x, x + 9, level=np.float32(0.05), settings=settings)
    assert '"alarm": true' in drifted.to_json()
    for wrong in (np.array([3, 3, 3]), np.array([1.5, 2.0]), np.float64(3.0), np.array(["3", "3"])):
        with pytest.raises(ValueError, match="`kernel_size` must be a positive integer or a tuple"):
            taut.nn.Conv2d(2, 4, wrong)


def torch_net(number) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 4, number(3), stride=number(1), padding=number(1)), nn.ReLU(),
        nn.AvgPool2d(number(2)), nn.MaxPool2d(number(2), stride=(number(1), number(1))),
        nn.Flatten(number(1)), nn.Linear(16, 3),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def arguments_of_torch_layers_shapes_and_radii():
    x, y = torch.rand(3, 2, 6, 6), torch.tensor([0, 1, 2])
    expected = taut.lipschitz_bound(torch_net(int), (2, 6, 6))
    for shape in ((n(2), n(6), n(6)), np.array([2, 6, 6]), [2, 6, 6], x.shape[1:]):
        assert taut.lipschitz_bound(torch_net(n), shape).layers == expected.layers
    certificate = taut.certify(torch_net(n), x, y, eps=np.float64(0.25))
    same = taut.certify(torch_net(int), x, y, eps=0.25)
    assert certificate.to_json() == same.to_json()
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer; got 0"):
        taut.attack(torch_net(n), x, y, 0.1, batch_size=n(0))
    taut.attack(torch_net(n), x, y, np.float64(0.1), batch_size=n(2))
    for wrong in (n(2), (2.0, 6, 6), np.array([2.0, 6.0]), x):
        with pytest.raises(ValueError, match="must be the shape of one input, without the batch"):
            taut.lipschitz_bound(torch_net(n), wrong)


@pytest.mark.parametrize("check", [sizes_of_layers, arguments_of_torch_layers_shapes_and_radii])
def test_numbers_of_numpy_are_numbers(check):
    # In a process of its own: the checks of types in the tests ask for numbers of Python.
    code = f"import {__name__} as here; here.{check.__name__}(); print('done')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "done\n", result.stderr[-1500:]
