"""What is computed in few launches off the CPU, computed so on it: the same in every use."""

import sys

import pytest
import torch
from torch import nn

import taut
from taut.linalg import rates

X = (2, 3, 6, 5)


@pytest.fixture(name="few_launches")
def _few_launches(monkeypatch):
    """Take the routes of other devices on the CPU from here on."""

    def start():
        own = rates.counts_launches
        modules = [m for name, m in sys.modules.items() if name.startswith("taut.")]
        users = [m for m in modules if getattr(m, "counts_launches", None) is own]
        assert len(users) >= 6
        for module in users:
            monkeypatch.setattr(module, "counts_launches", counts)

    def counts(device):
        return not (torch.compiler.is_compiling() or taut._torch_private.inside_transform())

    return start


def net() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.Conv2d(3, 5, 3, dtype=torch.float64),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(5, 4, (4, 3), stride=(2, 1), dtype=torch.float64),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 4, 3, padding=1, parametrization=taut.SCFac, dtype=torch.float64),
        nn.Flatten(),
        taut.nn.Linear(60, 3, dtype=torch.float64),
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batched", [False, True])
def test_outputs_and_gradients(few_launches, batched, memory_format):
    model, x = net(), torch.rand(X, dtype=torch.float64).to(memory_format=memory_format)
    leaves = [x.requires_grad_(), *model.parameters()]

    def step():
        if batched:
            with taut.batched(model):
                y = model(x)
        else:
            y = model(x)
        return y, torch.autograd.grad(y.pow(3).sum(), leaves)

    expected, gradients = step()
    few_launches()
    found, others = step()
    assert torch.allclose(found, expected, atol=1e-12)
    for a, b in zip(gradients, others, strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    assert torch.allclose(model(x[:1]), expected[:1], atol=1e-12)
    assert model(x[:0]).shape == (0, 3)


def test_second_derivatives_vmap_and_batched_gradients(few_launches):
    model, x = net(), torch.rand(X, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.functional.jacobian(model, x)
    few_launches()
    assert torch.autograd.gradgradcheck(lambda x: model(x).sin(), x[:1].detach().requires_grad_())
    found = torch.autograd.functional.jacobian(model, x, vectorize=True)
    assert torch.allclose(found, expected, atol=1e-11)
    each = torch.func.vmap(model)(x[:, None])[:, 0]
    assert torch.allclose(each, model(x), atol=1e-12)


@pytest.mark.parametrize("axes", [1, 3])
def test_other_dimensions(few_launches, axes):
    kind = {1: taut.nn.Conv1d, 3: taut.nn.Conv3d}[axes]
    layer, x = kind(2, 4, 3, dtype=torch.float64), torch.rand(2, 2, *(4, 3, 5)[:axes]).double()
    expected = layer(x)
    few_launches()
    assert torch.allclose(layer(x), expected, atol=1e-12)
    assert torch.allclose(layer(x[0]), expected[0], atol=1e-12)


def test_certificates_and_frozen_models(few_launches):
    model, x, labels = net().eval(), torch.rand(X, dtype=torch.float64), torch.tensor([0, 1])
    expected = taut.certify(model, x, labels)
    few_launches()
    found = taut.certify(model, x, labels)
    assert torch.allclose(found.radius, expected.radius, atol=1e-9)
    with torch.no_grad():
        assert torch.allclose(taut.freeze(model, X[1:])(x), model(x), atol=1e-12)
    for layer in (model[0], model[2], model[4]):
        values = taut.singular_values(
            layer, {model[0]: (3, 6, 5)}.get(layer, (layer.in_channels, 6, 6))
        )
        assert abs(values - 1).max() < 1e-9
