"""Accumulated gradients, recomputed activations, layers made without numbers: every layer."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import taut
from public_layers import LAYERS, NAMES, every_name, layer
from taut.parametrizations import AbstractParametrization, methods

METHODS = {name: cls for name, cls in methods().items() if name != "ECO"}


def test_every_layer_is_here():
    assert set(LAYERS) == every_name()


def inputs(shape, count=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def gradients(module, loss):
    module.zero_grad()
    loss().backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def assert_alike(found, expected):
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert torch.allclose(one, two, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_parts_add_up(name):
    module, shape = layer(name)
    module.eval()  # in training some mix the samples of a batch
    x = inputs(shape).requires_grad_()
    expected = gradients(module, lambda: module(x).pow(3).sum())
    of_x, x.grad = x.grad, None
    module.zero_grad()
    for part in x.split([1, 3]):
        module(part).pow(3).sum().backward()
    assert_alike([p.grad for p in module.parameters()], expected)
    assert torch.allclose(x.grad, of_x, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations(name, reentrant):
    module, shape = layer(name)
    module.eval()  # what moves running statistics moves them twice in training
    x = inputs(shape).requires_grad_()
    expected = gradients(module, lambda: module(x).pow(3).sum())
    of_x = x.grad

    def recomputed():
        return checkpoint(module, x, use_reentrant=reentrant).pow(3).sum()

    x.grad = None
    assert_alike(gradients(module, recomputed), expected)
    assert torch.allclose(x.grad, of_x, atol=1e-12)
    with taut.batched(module):
        assert_alike(gradients(module, recomputed), expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_recomputed_activations_of_every_method(name, reentrant):
    dense = METHODS[name] if name != "BCOPFixed" else taut.Orthogonal
    layers = [taut.nn.Linear(4, 4, parametrization=dense, dtype=torch.float64) for _ in range(3)]
    module, x = nn.Sequential(*layers), inputs((4,)).requires_grad_()
    expected = gradients(module, lambda: module(x).pow(3).sum())
    with taut.batched(module):
        y = x
        for one in module:
            y = checkpoint(one, y, use_reentrant=reentrant)
        found = gradients(module, lambda: y.pow(3).sum())
    assert_alike(found, expected)


def reset(module):
    for part in module.modules():
        if hasattr(part, "reset_parameters") and not isinstance(part, AbstractParametrization):
            part.reset_parameters()


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_are_made_without_numbers(name):
    """`to_empty` and `reset_parameters` come to a layer that is drawn where it is."""
    make, shape = LAYERS[name]
    with torch.device("meta"):
        module = make()
    module.to_empty(device="cpu")
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
    drawn = make()
    for one in (module, drawn):
        torch.manual_seed(0)
        reset(one)
    states = zip(module.state_dict().items(), drawn.state_dict().values(), strict=True)
    for (key, value), expected in states:
        assert torch.equal(value, expected), key
    x = inputs(shape).float()
    assert torch.equal(module.eval()(x), drawn.eval()(x))


@pytest.mark.parametrize("name", METHODS)
def test_initialisation_may_be_skipped(name):
    method = METHODS[name]
    arguments, options = (4, 4), {"parametrization": method, "dtype": torch.float64}
    if name != "BCOPFixed":
        module = nn.utils.skip_init(taut.nn.Linear, *arguments, **options)
        module.reset_parameters()
        assert module(inputs((4,))).isfinite().all()
    if not method.matrices_only:
        module = nn.utils.skip_init(taut.nn.Conv2d, *arguments, 3, **options)
        module.reset_parameters()
        assert module(inputs((4, 5, 5))).isfinite().all()


def test_copies_of_layers_keep_their_class():
    """As `torch.optim.swa_utils.AveragedModel` and pickled checkpoints make them."""
    module = taut.nn.Linear(3, 3)
    other = copy.deepcopy(module)
    assert type(other) is type(module)
    assert torch.equal(other.weight, module.weight)
