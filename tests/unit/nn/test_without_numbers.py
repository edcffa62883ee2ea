"""Layers under the tools of torch: meta and fake tensors, torch.fx, TorchScript, memory formats."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import taut
from taut.parametrizations import methods

LAYERS = {
    "conv": (lambda **k: taut.nn.Conv2d(4, 8, 4, stride=2, **k), (2, 4, 9, 8)),
    "circular": (lambda **k: taut.nn.Conv2d(4, 8, 3, padding_mode="circular", **k), (2, 4, 6, 6)),
    "transposed": (lambda **k: taut.nn.ConvTranspose2d(4, 8, 3, **k), (2, 4, 6, 6)),
    "linear": (lambda **k: taut.nn.Linear(4, 8, **k), (2, 4)),
    "wide": (lambda **k: taut.nn.Linear(300, 280, **k), (2, 300)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("gradients", [False, True])
def test_tensors_without_numbers_have_the_shape_of_the_output(name, gradients):
    make, shape = LAYERS[name]
    expected = make()(torch.zeros(shape)).shape
    with torch.set_grad_enabled(gradients):
        x = torch.zeros(shape, device="meta", requires_grad=gradients)
        assert make(device="meta")(x).shape == expected
        with FakeTensorMode():
            assert make()(torch.zeros(shape)).shape == expected


@pytest.mark.parametrize("method", methods().values(), ids=methods())
def test_every_method_has_a_shape_without_numbers(method):
    layer = taut.nn.Linear(4, 8, parametrization=method.dense_as(), device="meta")
    assert layer(torch.zeros(2, 4, device="meta")).shape == (2, 8)
    if not method.matrices_only:
        layer = taut.nn.Conv2d(4, 8, 3, parametrization=method, device="meta")
        assert layer(torch.zeros(2, 4, 6, 6, device="meta")).shape == (2, 8, 6, 6)


@pytest.mark.parametrize("method", methods().values(), ids=methods())
def test_layers_made_without_numbers_are_drawn_by_reset_parameters(method):
    with torch.device("meta"):
        model = nn.Sequential(taut.nn.Linear(6, 6, parametrization=method.dense_as()))
        if not method.matrices_only:
            model.append(taut.nn.Conv2d(4, 4, 3, parametrization=method))
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(float("nan"))
    for layer in model:
        layer.reset_parameters()
        weight = layer.kernel((6, 6)) if isinstance(layer, taut.nn.Conv2d) else layer.weight
        assert bool(weight.isfinite().all())
        assert bool(layer.bias.isfinite().all())


def frozen(channels: int) -> tuple[nn.Module, Tensor]:
    layers = [
        taut.nn.Conv2d(channels, 6, 3, stride=3), taut.nn.MaxMin(), taut.nn.Conv2d(6, 7, 2),
        taut.nn.MaxMin(), taut.nn.GroupSort(3), taut.nn.IsometricPad2d(1), nn.MaxPool2d(3, 1),
        taut.nn.ShiftMix2d(7, 7), taut.nn.ShiftMix2d(7, 7, padding_mode="zeros"),
        taut.nn.InvertibleDownsample2d(2), nn.Flatten(), taut.nn.Linear(112, 3),
    ]  # fmt: skip
    return taut.freeze(nn.Sequential(*layers)), torch.randn(2, channels, 11, 10)


SCRIPT = """
import torch
from tests.unit.nn.test_without_numbers import frozen
model, x = frozen(4)
compiled = {}(model)
for x in (x, torch.randn(5, 4, 12, 12)):
    assert torch.equal(compiled(x), model(x))
print("equal")
"""


@pytest.mark.parametrize("tool", ["torch.jit.script", "torch.fx.symbolic_trace"])
def test_frozen_models_pass_through_the_compilers_of_torch(tool):
    # In a process of its own: the checks of shapes in the tests wrap what these tools read.
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.replace("{}", tool)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "equal\n", result.stderr[-1000:]


@pytest.mark.parametrize("method", ["BCOP", "RKO", "OSSN", "SVCM", "BCOPFixed"])
@pytest.mark.parametrize(
    "options", [{}, {"padding_mode": "zeros"}, {"padding": "valid"}, {"stride": 3}, {"padding": 1}]
)
@pytest.mark.parametrize("gradients", ["none", "of weights", "of inputs", "switched off"])
def test_channels_that_lie_last_stay_there(method, options, gradients):
    layer = taut.nn.Conv2d(4, 8, 3, parametrization=methods()[method], **options)
    layer.requires_grad_(gradients != "none")
    x = torch.randn(2, 4, 9, 8)
    last = x.to(memory_format=torch.channels_last).requires_grad_(gradients == "of inputs")
    with torch.set_grad_enabled(gradients != "switched off"):
        y = layer(last)
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [taut.nn.MaxMin, lambda: taut.nn.GroupSort(2)])
@pytest.mark.parametrize("channels", [4, 5])
@pytest.mark.parametrize("gradients", [False, True])
def test_activations_keep_channels_last(make, channels, gradients):
    x = torch.randn(2, channels, 5, 6)
    last = x.to(memory_format=torch.channels_last).requires_grad_(gradients)
    y = make()(last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, make()(x))
