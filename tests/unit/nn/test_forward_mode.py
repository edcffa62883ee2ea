"""torch.func in forward mode, and derivatives of second order: every layer and method."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, linearize

import taut
from public_layers import NAMES, layer
from taut.parametrizations import methods

# torch warns of what it does itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
    pytest.mark.filterwarnings("ignore:Failed to fetch module:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning"),
]
METHODS = {name: cls for name, cls in methods().items() if name != "ECO"}
# Polar factors have first derivatives alone, and torch none of second order of some others.
ONCE = {"BCOPFixed"}


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def by_vector(module):
    """The layer as a function of one input and of its parameters."""

    def function(x, parameters):
        return functional_call(module, parameters, (x[None],))[0]

    return function, {n: p.detach() for n, p in module.named_parameters()}


def assert_forward_is_reverse(module, shape):
    function, parameters = by_vector(module.eval())
    x, moved = random(*shape), random(*shape, seed=1)
    turned = {n: random(*p.shape, seed=2) for n, p in parameters.items()}
    _, tangent = jvp(function, (x, parameters), (moved, turned))
    by_x, by_parameters = jacrev(function, (0, 1))(x, parameters)
    expected = torch.tensordot(by_x, moved, len(shape))
    for name, p in parameters.items():
        expected = expected + torch.tensordot(by_parameters[name], turned[name], p.dim())
    assert torch.allclose(tangent, expected, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_both_modes_agree(name):
    module, shape = layer(name)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * random(*parameter.shape, seed=3))
    if name == "LinearSpline":
        with torch.no_grad():
            module.raw.clamp_(-0.9, 0.9)  # beyond 1 gradients are one-sided
    assert_forward_is_reverse(module, shape)


@pytest.mark.parametrize("name", METHODS)
def test_both_modes_agree_for_every_method(name):
    method = METHODS[name]
    if name != "BCOPFixed":
        dense = taut.nn.Linear(3, 4, parametrization=method, dtype=torch.float64)
        assert_forward_is_reverse(dense, (3,))
    if not method.matrices_only:
        conv = taut.nn.Conv2d(2, 3, 3, parametrization=method, dtype=torch.float64)
        assert_forward_is_reverse(conv, (2, 4, 4))


@pytest.mark.parametrize("name", NAMES)
def test_hessians(name):
    module, shape = layer(name)
    module.eval()

    def f(x):
        return module(x[None]).pow(3).sum() + module(x[None]).sin().sum()

    x = random(*shape)
    expected = torch.autograd.functional.hessian(f, x)
    assert torch.allclose(hessian(f)(x), expected, atol=1e-9)
    assert torch.allclose(jacrev(jacfwd(f))(x), expected, atol=1e-9)


def network(conv=taut.BCOP):
    torch.manual_seed(0)
    layers = (
        taut.nn.Conv2d(1, 4, 3, parametrization=conv),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 4, 2, 2, padding="same"),
        taut.nn.HouseHolder(4),
        nn.Flatten(),
        taut.nn.Linear(16, 6),
        nn.Tanh(),
        taut.nn.Linear(6, 3),
    )
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("frozen", [False, True])
def test_networks(frozen):
    """Against finite differences of the gradient."""
    model = taut.freeze(network()) if frozen else network()

    def f(x):
        return model(x[None]).pow(3).sum()

    x, v = random(1, 4, 4), random(1, 4, 4, seed=1)
    h = hessian(f)(x)
    gradient = jacrev(f)
    difference = (gradient(x + 1e-6 * v) - gradient(x - 1e-6 * v)) / 2e-6
    assert torch.allclose(torch.tensordot(h, v, 3), difference, atol=1e-7)
    value, slope = linearize(model, x[None])
    assert torch.allclose(value, model(x[None]))
    assert torch.allclose(slope(v[None]), jvp(model, (x[None],), (v[None],))[1], atol=1e-12)
    assert torch.allclose(torch.vmap(hessian(f))(x[None])[0], h, atol=1e-10)
    with pytest.raises(NotImplementedError, match="Two derivatives in forward mode") as _:
        jacfwd(jacfwd(lambda a: taut.linalg.bases.orthonormal_basis(a).sum()))(random(3, 2))


def test_dual_numbers_outside_of_transforms():
    """With parameters that require a gradient, so that layers apply their factors."""
    model, x, v = network(), random(2, 1, 4, 4), random(2, 1, 4, 4, seed=1)
    expected = jvp(model, (x,), (v,))[1]
    for gradients in (True, False):
        with forward_ad.dual_level(), torch.set_grad_enabled(gradients):
            y = model(forward_ad.make_dual(x, v))
            assert torch.allclose(forward_ad.unpack_dual(y).tangent, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["BCOP", "RKO", "Orthogonal", "AOL", "SLL", "Householder", "SOC"])
def test_second_derivatives_by_parameters(name):
    if name == "SOC":
        module, shape = layer("SOC1d")
    elif methods()[name].matrices_only:
        module = taut.nn.Linear(3, 2, parametrization=methods()[name], dtype=torch.float64)
        shape = (3,)
    else:
        module = taut.nn.Conv1d(2, 2, 3, parametrization=methods()[name], dtype=torch.float64)
        shape = (2, 4)
    function, parameters = by_vector(module)
    x = random(*shape)
    raw = next(n for n in parameters if "raw" in n)

    def f(value):
        return function(x, parameters | {raw: value}).pow(3).sum()

    value, v = parameters[raw], random(*parameters[raw].shape, seed=1)
    gradient = jacrev(f)
    difference = (gradient(value + 1e-6 * v) - gradient(value - 1e-6 * v)) / 2e-6
    for second in (hessian(f)(value), torch.autograd.functional.hessian(f, value)):
        assert torch.allclose(torch.tensordot(second, v, v.dim()), difference, atol=1e-6)
