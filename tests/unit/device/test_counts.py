"""What a GPU would be asked to do in a training step, as numbers that may not rise.

The twins are torch's own layers with circular padding, which makes them functions of the same kind,
and with zero padding, which is the cheapest.
"""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from fake_device import Counts, FakeDevice, fake_device

# Launches of a step, syncs of it (one a basis), and launches over those of the circular twin.
LIMITS = {"Large": (295, 3, 1.59), "12 x 256": (350, 2, 0.68)}


@pytest.fixture(name="device")
def _device() -> FakeDevice:
    return fake_device()


def nets() -> dict[str, tuple[nn.Module, torch.Tensor, int]]:
    """The nets, an input, and the classes."""
    deep = nn.Sequential()
    for _ in range(12):
        deep.extend([taut.nn.Conv2d(256, 256, 3), taut.nn.MaxMin()])
    return {
        "Large": (taut.models.Large().build((3, 32, 32), 10), torch.rand(2, 3, 32, 32), 10),
        "12 x 256": (deep, torch.rand(1, 256, 2, 2), 0),
    }


def twin(model: nn.Module, mode: str) -> nn.Module:
    """The same net of torch's own layers."""
    layers = nn.Sequential()
    for layer in model.children():
        if isinstance(layer, taut.nn.Linear):
            layer = nn.Linear(layer.in_features, layer.out_features)
        elif isinstance(layer, taut.nn.Conv2d):
            (k, _), (s, _) = layer.kernel_size, layer.stride
            sides = (k - s) // 2, (k - s + 1) // 2
            sizes = (layer.in_channels, layer.out_channels, k, s)
            if mode == "zeros" or sides[0] == sides[1]:
                layer = nn.Conv2d(*sizes, padding=sides[1], padding_mode=mode)
            else:
                layer = nn.Sequential(nn.CircularPad2d(2 * sides), nn.Conv2d(*sizes))
        layers.append(layer)
    return layers


def counted_step(device: FakeDevice, model: nn.Module, x: torch.Tensor, classes: int) -> Counts:
    """Counts of a step, for an optimiser that has its state."""
    model = device.module(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
    own = any(isinstance(m, taut.nn.Conv2d) for m in model.modules())
    with device:
        x, labels = device.tensor(x), device.tensor(torch.arange(len(x)))
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimiser.step()
        with taut.batched(model) if own else contextlib.nullcontext():
            model(x)  # makes the constants
        with device.counting() as counts:
            optimiser.zero_grad()
            with taut.batched(model) if own else contextlib.nullcontext():
                y = model(x)
                loss = F.cross_entropy(y, labels) if classes else y.square().mean()
                loss.backward()
            optimiser.step()
    return counts


@pytest.mark.parametrize("name", list(LIMITS))
def test_launches_and_syncs_of_a_training_step(device, name):
    model, x, classes = nets()[name]
    plain = counted_step(device, twin(model, "circular"), x, classes)
    own = counted_step(device, model, x, classes)
    launches, syncs, ratio = LIMITS[name]
    assert own.launches <= launches, own.by_place.most_common(20)
    assert own.launches <= ratio * plain.launches
    assert own.syncs.total() <= syncs, own.syncs
    assert all("linalg/factors.py" in place for place in own.syncs)
    assert not own.copies


def test_frozen_models_launch_what_their_twins_do(device):
    model, x, _ = nets()["Large"]
    frozen = device.module(taut.freeze(model.eval(), (3, 32, 32)))
    plain = device.module(twin(model, "circular").eval())
    with device, torch.no_grad():
        x = device.tensor(x)
        with device.counting() as counts:
            frozen(x)
        with device.counting() as expected:
            plain(x)
    assert counts.launches <= expected.launches
    assert not counts.syncs


def test_evaluation_launches_weights_once(device):
    model, x, _ = nets()["Large"]
    model = device.module(model.eval())
    with device, torch.no_grad(), taut.cached():
        x = device.tensor(x)
        expected = model(x)
        with device.counting() as counts:
            assert torch.equal(model(x).cpu(), expected.cpu())
    assert counts.launches <= 30
    assert counts.syncs.total() == 2  # the two reads here


def test_bytes_a_position_of_a_built_kernel(device):
    """A layer of c channels forward and backward: bytes a position and channel."""
    found = {}
    for name, mode, kind in (
        ("own", "circular", taut.nn.Conv2d),
        ("circular", "circular", nn.Conv2d),
        ("zeros", "zeros", nn.Conv2d),
    ):
        layer = device.module(kind(8, 8, 3, padding=1, padding_mode=mode, bias=False))
        sums = []
        for batch in (2, 4):
            with device, device.counting() as counts:
                x = device.tensor(torch.rand(batch, 8, 16, 16, requires_grad=True))
                layer(x).backward(device.tensor(torch.ones(batch, 8, 16, 16)))
            sums.append(counts.bytes)
        found[name] = (sums[1] - sums[0]) / (2 * 8 * 16 * 16)
    assert found["own"] <= 52, found
    assert found["own"] < found["circular"], found
    assert found["own"] <= 2.5 * found["zeros"], found


def test_devices_are_not_mixed(device):
    with device:
        x = device.tensor(torch.ones(2))
        with pytest.raises(RuntimeError, match="mixes tensors of the device and of the CPU"):
            x + torch.ones(2, device="cpu")
        assert float((x + 1).sum()) == 4
