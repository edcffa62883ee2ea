"""Losses and attacks do not wait for the device, or seldom."""

import copy

import pytest
import torch
from torch import nn

import taut
from fake_device import FakeDevice, fake_device
from taut.attacks import PGD
from taut.attacks._objective import Objective
from taut.losses import KR, HingeKR, HingeKRMulticlass, MultiMargin


@pytest.fixture(name="device")
def _device() -> FakeDevice:
    return fake_device()


@pytest.mark.parametrize(
    ("loss", "classes"),
    [(KR(), 1), (HingeKR(), 1), (HingeKRMulticlass(), 3), (MultiMargin(1.0), 3)],
)
def test_losses_never_wait(device, loss, classes):
    logits, labels = torch.randn(6, classes, requires_grad=True), torch.tensor([0, 1, 1, 0, 0, 1])
    expected = loss(logits, labels)
    expected.backward()
    there = device.tensor(logits)
    with device:
        labels = device.tensor(labels)
        with device.counting() as counts:
            found = loss(there, labels)
            found.backward()
        assert torch.allclose(found.cpu(), expected)
        assert torch.allclose(there.grad.cpu(), logits.grad)
    assert not counts.syncs


def _attacked(steps: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Flatten(), taut.nn.Linear(12, 12), taut.nn.MaxMin(), nn.Linear(12, 3))
    return model, torch.rand(8, 3, 2, 2), torch.arange(8) % 3


@pytest.mark.parametrize("steps", [20, 45])
def test_pgd_waits_once_in_ten_steps(device, steps):
    model, images, labels = _attacked(steps)
    there = device.module(copy.deepcopy(model))
    with device, taut.cached():
        images, labels = device.tensor(images), device.tensor(labels)
        radius = torch.full((8,), 0.05, dtype=torch.float64, device=images.device)
        objective = Objective(there)
        objective.slope(images, labels)
        with device.counting() as counts:
            PGD(steps=steps).perturb(objective, images, labels, radius)
    # Two more for the starts, and one at the end.
    assert counts.syncs.total() <= 3 + steps / 10, counts.syncs


@pytest.mark.parametrize("eps", [0.01, 0.2, 2.0])
def test_pgd_finds_there_what_it_finds_on_the_cpu(device, eps):
    model, images, labels = _attacked(25)
    expected = taut.attack(model.double(), images.double(), labels, eps=eps, steps=25, restarts=2)
    there = device.module(copy.deepcopy(model))
    with device:
        given = there, device.tensor(images.double()), device.tensor(labels)
        found = taut.attack(*given, eps=eps, steps=25, restarts=2)
        assert torch.equal(found.success.cpu(), expected.success)
        assert torch.allclose(found.adversarial.cpu(), expected.adversarial, atol=1e-9)
