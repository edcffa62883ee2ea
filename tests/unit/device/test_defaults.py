"""Torch's default dtype and device: what is on another device, or in another dtype, stays so."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import taut
from taut import parametrizations

CPU = torch.device("cpu")


@pytest.fixture(name="_other_defaults", autouse=True, params=["float64", "meta"])
def _defaults(request):
    """A default dtype that is not that of the models here, or a default device without numbers."""
    if request.param == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def net() -> nn.Sequential:
    factory = {"dtype": torch.float32, "device": CPU}
    return nn.Sequential(
        taut.nn.Conv2d(2, 4, 3, **factory),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 4, 2, stride=2, **factory),
        taut.nn.GroupSort(2),
        nn.Flatten(),
        taut.nn.Linear(16, 8, **factory),
        taut.nn.HouseHolder(8, **factory),
        taut.nn.Linear(8, 3, **factory),
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(4, 2, 4, 4, dtype=torch.float32, device=CPU)
    return images, torch.tensor([0, 1, 2, 0], device=CPU)


def test_training_step():
    model, (images, labels) = net(), batch()
    optimiser = torch.optim.Adam(model.parameters())
    for step in (15, 16):
        with taut.batched(model):
            loss = taut.losses.MultiMargin(1.0)(model(images), labels)
        loss.backward()
        optimiser.step()
        taut.after_step(model, step)
    assert all(p.dtype == torch.float32 and p.device == CPU for p in model.parameters())


@pytest.mark.parametrize("arithmetic", ["float64", "float32", "real"])
def test_certificates(arithmetic):
    proved = taut.certify(net(), *batch(), arithmetic=arithmetic)
    assert proved.radius.dtype == torch.float64
    assert proved.radius.device == CPU


@pytest.mark.parametrize("method", ["pgd", "fgsm", "ddn"])
def test_attacks(method):
    images, labels = batch()
    adversarial = taut.attack(net(), images, labels, eps=0.3, method=method).adversarial
    assert adversarial.dtype == torch.float32
    assert adversarial.device == CPU


@pytest.mark.parametrize("name", list(parametrizations.methods()))
def test_layers_of_all_methods(name):
    method = parametrizations.methods()[name]
    factory = {"dtype": torch.float32, "device": CPU}
    if method.matrices_only:
        layer, shape = taut.nn.Linear(4, 6, parametrization=method, **factory), (4,)
    else:
        layer, shape = taut.nn.Conv2d(4, 6, 2, parametrization=method, **factory), (4, 4, 4)
    y = layer(torch.rand(2, *shape, **factory))
    assert (y.dtype, y.device) == (torch.float32, CPU)
    y.sum().backward()
    taut.after_step(layer, 100)
    frozen = taut.freeze(layer.eval(), shape)
    assert all((p.dtype, p.device) == (torch.float32, CPU) for p in frozen.parameters())
    assert taut.lipschitz_bound(layer, shape).value < 1.5


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "NActivation": lambda: taut.nn.NActivation(4, device=CPU, dtype=torch.float32),
    "LinearSpline": lambda: taut.nn.LinearSpline(4, device=CPU, dtype=torch.float32),
    "ScaledAvgPool2d": lambda: taut.nn.ScaledAvgPool2d(2),
    "L2NormPool2d": lambda: taut.nn.L2NormPool2d(2),
    "SOC2d": lambda: taut.nn.SOC2d(4, 4, 3, device=CPU, dtype=torch.float32),
    "Sandwich2d": lambda: taut.nn.Sandwich2d(4, 4, device=CPU, dtype=torch.float32),
    "ShiftMix2d": lambda: taut.nn.ShiftMix2d(4, 4, device=CPU, dtype=torch.float32),
    "PotentialResidual2d": lambda: taut.nn.PotentialResidual2d(4, device=CPU, dtype=torch.float32),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_other_layers(name):
    layer = LAYERS[name]()
    y = layer(torch.rand(2, 4, 4, 4, dtype=torch.float32, device=CPU))
    assert (y.dtype, y.device) == (torch.float32, CPU)
    taut.freeze(layer.eval(), (4, 4, 4))
    assert taut.lipschitz_bound(layer, (4, 4, 4)).value < 1.1


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_exported_files(suffix, tmp_path):
    model, (images, _) = net().eval(), batch()
    exported = taut.export.export(taut.freeze(model), tmp_path / f"m.{suffix}", (2, 4, 4)).model
    assert torch.allclose(exported(images), model(images), atol=1e-5)
