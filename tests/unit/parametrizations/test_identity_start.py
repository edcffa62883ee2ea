"""BCOP that starts as the identity, and layers times a constant."""

from functools import partial

import pytest
import torch

import taut
from oracles import dense_operator

IDENTITY = partial(taut.BCOP, init="identity")


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (5, 1), (6, 3), (2, 1)])
def test_layers_start_as_the_identity(axes, channels, groups):
    kind = getattr(taut.nn, f"Conv{axes}d")
    options = {"groups": groups, "bias": False, "dtype": torch.float64}
    layer = kind(channels, channels, 3, parametrization=IDENTITY, **options)
    x = torch.randn(2, channels, *[4] * axes, dtype=torch.float64)
    assert torch.allclose(layer(x), x, atol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3)])
def test_more_or_fewer_outputs_start_as_copies(inputs, outputs):
    layer = taut.nn.Conv2d(inputs, outputs, 5, bias=False, parametrization=IDENTITY)
    x, kept = torch.randn(2, inputs, 6, 6), min(inputs, outputs)
    assert torch.allclose(layer(x)[:, :kept], x[:, :kept], atol=1e-5)
    assert layer(x)[:, kept:].abs().sum() < 1e-3


def test_tied_projectors_separate_in_training():
    torch.manual_seed(0)
    layer = taut.nn.Conv2d(4, 4, 3, parametrization=IDENTITY, dtype=torch.float64)
    raw = layer.parametrization.raw_projectors
    first = raw @ raw.mT  # the projectors
    assert torch.allclose(first, first[:1].expand_as(first), atol=1e-14)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    x, y = torch.randn(2, 8, 4, 5, 5, dtype=torch.float64)
    for _ in range(3):
        optimiser.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimiser.step()
    after = raw @ torch.linalg.pinv(raw)
    assert (after[0] - after[1]).norm() > 1e-4
    assert (after[0] - after[2]).norm() > 1e-4


@pytest.mark.defaults
def test_roundings_of_tied_projectors_do_not_add_up():
    torch.manual_seed(0)
    values = taut.singular_values(taut.nn.Conv2d(256, 256, 3), (256, 2, 2))
    assert values.max() < 1 + 2e-6


@pytest.mark.defaults
def test_it_is_the_default():
    assert taut.BCOP(2, 2, (3,)).init == "identity"
    layer, x = taut.nn.Conv2d(3, 3, 5, bias=False), torch.randn(1, 3, 4, 6)
    assert torch.allclose(layer(x), x, atol=1e-6)
    assert taut.BCOPFixed(3, 3, (3,)).weight()[..., 0].abs().max() > 0.01  # never trained: drawn


def test_other_initialisations_are_refused():
    with pytest.raises(ValueError, match="`init` must be 'identity' or 'uniform'; got 'zero'"):
        taut.BCOP(2, 2, (3,), init="zero")


GAINED = {
    "linear": (lambda **options: taut.nn.Linear(4, 6, **options), (4,)),
    "conv": (lambda **options: taut.nn.Conv2d(2, 8, 3, 2, **options), (2, 6, 6)),
    "transposed": (lambda **options: taut.nn.ConvTranspose1d(6, 2, 3, 3, **options), (6, 4)),
}


@pytest.mark.parametrize("name", GAINED)
@pytest.mark.parametrize("gain", [3.0, 0.25])
def test_a_gain_multiplies_the_operator(name, gain):
    make, shape = GAINED[name]
    layer = make(gain=gain, bias=False, dtype=torch.float64)
    values = torch.linalg.svdvals(dense_operator(layer, shape))
    assert torch.allclose(values, torch.full_like(values, gain), atol=1e-9)
    assert f"gain={float(gain)}" in repr(layer)
    frozen, x = taut.freeze(layer), torch.randn(3, *shape, dtype=torch.float64)
    assert torch.allclose(frozen(x), layer(x))
    assert gain <= float(taut.lipschitz_bound(frozen, shape)) <= gain * (1 + 1e-9)
    weight = layer.weight.detach()
    if name == "linear":
        layer.weight = weight
        assert torch.allclose(layer.weight, weight)


@pytest.mark.parametrize("gain", [0, -1.0, float("inf"), float("nan"), "2"])
def test_other_gains_are_refused(gain, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="`gain` must be a positive number; got"):
        taut.nn.Linear(2, 2, gain=gain)
