"""What the experiment on threats measures: a certificate never claims more than attacks leave."""

import pytest
import torch
from torch import nn

from experiments import threats
from experiments._threat_attacks import survived
from taut.threats import L1, L2, Linf


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 6), nn.ReLU(), nn.Linear(6, 3)
    )


@pytest.mark.parametrize("name", list(threats.THREATS))
def test_certified_accuracy_is_at_most_that_under_attack(name):
    net = model()
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    labels = net(images).argmax(1)
    row = threats.measured(net, images, labels, name)
    assert row["clean"] == 100.0
    for certified, attacked in zip(row["certified"], row["attacked"], strict=True):
        assert certified <= attacked
    assert row["curve"][-1] == pytest.approx(row["certified"][-1])


@pytest.mark.parametrize("threat", [L2(), L1(), Linf()], ids=lambda t: t.kind)
def test_attacks_on_a_linear_model_succeed_just_beyond_the_closed_form(threat):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    images = torch.rand(1, 1, 4, 4)
    labels = net(images).argmax(1)
    slope = (net[1].weight[0] - net[1].weight[1]).abs()
    dual = {"l2": slope.norm(), "l1": slope.max(), "linf": slope.sum()}[threat.kind]
    edge = ((net(images)[0, labels] - net(images)[0, 1 - labels]).abs() / dual).item()
    assert survived(net, images, labels, threat, (0.99 * edge, 1.01 * edge)) == [1.0, 0.0]
