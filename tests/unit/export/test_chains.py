"""Chains of frozen layers: activations write padded inputs, and convolutions have channels last."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import taut
from taut.certification import verifier
from taut.export import export, load
from taut.nn import CircularConv2d, CircularPad2d

SHAPE = (3, 9, 10)


def large(**options) -> nn.Sequential:
    torch.manual_seed(0)
    return taut.models.Large().build(SHAPE, 5, **options).eval()


def deep(activation: type[nn.Module] = taut.nn.MaxMin) -> nn.Sequential:
    """Even and odd kernels, steps, and sizes that they do not divide."""
    torch.manual_seed(0)
    sizes = [(3, 4, 2, 1), (4, 4, 3, 1), (4, 6, 4, 2), (6, 6, 3, 3), (6, 6, 3, 2)]
    layers: list[nn.Module] = []
    for sizes_of_layer in sizes:
        layers += [taut.nn.Conv2d(*sizes_of_layer), activation()]
    return nn.Sequential(*layers, nn.Flatten(), taut.nn.Linear(6, 5)).eval()


def frozen_of(model: nn.Module) -> Any:
    return taut.freeze(model)


def layers_of(model: nn.Module) -> list[str]:
    return [type(m).__name__ for m in model.children()]


@pytest.mark.parametrize("make", [large, deep, lambda: deep(taut.nn.Abs), lambda: deep(nn.ReLU)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 20])
def test_frozen_nets_compute_what_they_did(make, last, batch):
    model = make()
    frozen, x = frozen_of(model), torch.rand(batch, *SHAPE)
    x = x.to(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), model(x), rtol=1e-5, atol=1e-6)
        double = frozen_of(make().double())
        torch.testing.assert_close(double(x.double()), make().double()(x.double()))
    grads = []
    for net in (model, frozen):
        y = x.clone().requires_grad_()
        grads.append(torch.autograd.grad(net(y).sin().sum(), y)[0])
        assert net is model or grads[-1].is_contiguous() or last
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_which_layers_are_one():
    frozen = frozen_of(large())
    assert layers_of(frozen)[:8] == [
        "CircularConv2d", "CircularPad2d", "Conv2d", "CircularPad2d", "Conv2d", "CircularPad2d",
        "Conv2d", "MaxMin",
    ]  # fmt: skip
    assert list(frozen._modules) == list(large()._modules)
    assert list(frozen.state_dict()) == [
        f"{name}.{kind}"
        for name in ("conv1", "conv2", "conv3", "conv4", "dense1", "dense2", "dense3")
        for kind in ("weight", "bias")
    ]
    assert all(m.channels_last for m in frozen if isinstance(m, CircularConv2d | CircularPad2d))


def test_channels_last_only_where_the_end_of_the_chain_is_flat():
    conv = taut.nn.Conv2d
    open_end = frozen_of(nn.Sequential(conv(3, 4, 3), taut.nn.MaxMin(), conv(4, 4, 3)))
    x = torch.rand(16, *SHAPE)
    assert open_end(x).is_contiguous()
    body = nn.Sequential(conv(3, 4, 3), nn.Softplus(), conv(4, 4, 3), nn.ReLU())
    model = nn.Sequential(body, nn.Identity(), nn.Flatten(), taut.nn.Linear(360, 2))
    frozen = frozen_of(model)
    first, last = frozen[0][0], frozen[0][2]
    assert (first.channels_last, last.channels_last) == (False, True)
    torch.testing.assert_close(frozen(x), model(x), rtol=1e-5, atol=1e-6)


class Holds(nn.Module):
    """A class of a user's own that counts on the outputs of the layers of a chain."""

    def __init__(self, chain: nn.Sequential) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.chain.children():
            y = layer(x)
            x = y + x if y.shape == x.shape else y
        return x


def test_what_others_hold_or_share_stays_apart():
    chain = nn.Sequential(taut.nn.Conv2d(3, 4, 3), taut.nn.MaxMin(), taut.nn.Conv2d(4, 4, 3))
    model, x = Holds(chain), torch.rand(2, *SHAPE)
    frozen = frozen_of(model)
    assert layers_of(frozen.chain) == ["CircularConv2d", "MaxMin", "CircularConv2d"]
    torch.testing.assert_close(frozen(x), model(x))
    conv, act = taut.nn.Conv2d(3, 3, 3), taut.nn.MaxMin()
    twice = nn.Sequential(act, conv, act, conv)
    frozen = frozen_of(twice)
    assert frozen[1] is frozen[3]
    torch.testing.assert_close(frozen(x), twice(x))


IN_A_PROCESS = """
import warnings, torch, taut
from torch import nn
warnings.simplefilter("ignore")
torch.manual_seed(0)
conv = taut.nn.Conv2d
model = nn.Sequential(
    conv(3, 4, 2), taut.nn.MaxMin(), conv(4, 4, 3), nn.ReLU(), conv(4, 6, 4, 2), taut.nn.MaxMin(),
    conv(6, 6, 3, 3), nn.ReLU(), nn.Flatten(), taut.nn.Linear(24, 5)
).eval()
frozen, x = taut.freeze(model), torch.rand(16, 3, 9, 10)
with torch.no_grad():
    expected = model(x)
    tools = (torch.jit.script, lambda net: torch.jit.trace(net, x), torch.fx.symbolic_trace)
    for tool in tools:
        torch.testing.assert_close(tool(frozen)(x), expected, rtol=1e-5, atol=1e-6)
"""


def test_in_scripts_and_traces():
    """In a process of its own: these tools cannot see through the shape checks of the tests."""
    command = [sys.executable, "-c", IN_A_PROCESS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_files_hold_activations_and_circular_convolutions(suffix, tmp_path: Path):
    model, x = deep(), torch.rand(9, *SHAPE)
    frozen, path = frozen_of(model), tmp_path / f"model{suffix}"
    export(frozen, path, SHAPE)
    read = load(path).model
    torch.testing.assert_close(read(x), frozen(x), rtol=1e-5, atol=1e-6)
    bounds = [float(taut.lipschitz_bound(m, SHAPE)) for m in (model, frozen, read)]
    assert bounds == pytest.approx([1.0] * 3, abs=1e-5)
    if suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path.read_bytes())
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(y, frozen(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_certificates_are_verified(arithmetic, tmp_path: Path):
    frozen, x = frozen_of(deep()), torch.rand(12, *SHAPE)
    result = taut.certify(frozen, x, frozen(x).argmax(1), arithmetic=arithmetic)
    path, weights = result.save(tmp_path / "certificate.json")
    assert f"Lipschitz bound {float(result.bound)}" in verifier.verify(path, weights)


@pytest.mark.parametrize("last", [False, True])
def test_a_frozen_layer_copies_its_border_alone(last):
    """Between two convolutions nothing but the border of the activation is copied."""
    frozen, x = frozen_of(large()), torch.rand(2, 3, 8, 8)
    x = x.to(memory_format=torch.channels_last) if last else x
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.copy_.default, torch.ops.aten.clone.default):
                copied.append(args[0][0].numel())
            return func(*args, **(kwargs or {}))

    with torch.no_grad():
        y = frozen[0](x)
        with Copies():
            frozen[2](frozen[1](y))
    assert sorted(copied) == [32 * n for n in (8, 8, 10, 10)]
