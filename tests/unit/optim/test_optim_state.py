"""Whoever else writes to raw tensors, copies, saves or reads them: the function is right."""

import copy
import gc
import io
import pickle
from functools import partial

import pytest
import torch
from torch import nn

import taut
from optim_cases import (
    BASIS,
    Operations,
    backward,
    defect,
    each_optimiser,
    gradient,
    images,
    net,
    same,
    train,
)
from taut.parametrizations import raws_among
from taut.parametrizations._kept import is_own_basis
from taut.program import UnprovenError


def weights(model: nn.Sequential) -> list[torch.Tensor]:
    return [layer.weight for layer in model if isinstance(layer, (taut.nn.Conv2d, taut.nn.Linear))]


def assert_function_of_state(model: nn.Module) -> None:
    """Gradients on, the outputs are those of a copy that no optimiser knows."""
    x = images()[0]
    assert torch.allclose(model(x), copy.deepcopy(model)(x), atol=1e-12)


def halve(model: nn.Module, _: object) -> None:
    with torch.no_grad():
        for raw in raws_among(model.parameters()):
            raw.mul_(0.5)


def load(model: nn.Module, _: object, assign: bool = False) -> None:
    other = net(seed=5)
    halve(other, None)
    model.load_state_dict(other.state_dict(), assign=assign)


def step(model: nn.Module, _: object, fused: bool = False, foreach: bool = False) -> None:
    torch.optim.Adam(model.parameters(), lr=0.1, fused=fused, foreach=foreach).step()


WRITERS = {
    "in place": halve,
    "load_state_dict": load,
    "load_state_dict, assigned": partial(load, assign=True),
    "init": lambda model, _: [nn.init.normal_(raw) for raw in raws_among(model.parameters())],
    "reset_parameters": lambda model, _: model[0].reset_parameters(),
    "a foreign step": step,
    "a foreign fused step": partial(step, fused=True),
    "a foreign step of many": partial(step, foreach=True),
    "another memory": lambda model, _: [
        setattr(raw, "data", 0.5 * raw.data) for raw in raws_among(model.parameters())
    ],
}


@each_optimiser
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_change_by_others_is_noticed(make, write):
    model = net()
    optimiser = make(model.parameters())
    train(model, optimiser, 2)
    write(model, optimiser)
    assert_function_of_state(model)
    for weight in weights(model):
        if weight.dim() == 2 and weight.shape[0] != 3:
            assert float((torch.linalg.svdvals(weight.detach()) - 1).abs().max()) < 1e-12


@each_optimiser
def test_the_step_after_a_change_starts_from_the_basis(make):
    """Scales of raw tensors do not count: neither in the function nor in the step from it."""
    model, other = net(), net()
    with torch.no_grad():
        for raw in raws_among(other.parameters()):
            upper = torch.eye(raw.shape[-1], dtype=raw.dtype).triu() * 3
            raw.copy_(raw @ (upper + 0.1 * torch.ones_like(upper).triu(1)))
    for one in (model, other):
        train(one, make(one.parameters()), 3)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in pairs)


@each_optimiser
def test_evaluation_is_that_of_the_state_alone(make):
    model, fresh, x = net(), net(seed=3), images()[0]
    optimiser = make(model.parameters())
    train(model, optimiser, 3)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x), fresh(x))
    assert torch.allclose(model(x), fresh(x), atol=1e-13)
    shape = tuple(x.shape[1:])
    assert float(taut.lipschitz_bound(model, shape)) == float(taut.lipschitz_bound(fresh, shape))
    radii = [taut.certify(m, *images(), (0.1,)).radius for m in (model, fresh)]
    assert torch.equal(*radii)
    with torch.no_grad():
        assert torch.equal(taut.freeze(model)(x), taut.freeze(fresh)(x))


def test_a_change_through_data_reaches_no_certificate():
    model, x = net(), images()[0]
    optimiser = taut.optim.Adam(model.parameters())
    train(model, optimiser, 2)
    for raw in raws_among(model.parameters()):
        raw.data.mul_(5)
    with torch.no_grad():
        assert torch.equal(model(x), copy.deepcopy(model)(x))
    with pytest.raises(UnprovenError, match="differs from the program"):  # with gradients
        taut.lipschitz_bound(model, tuple(x.shape[1:]))
    train(model, optimiser, 1)
    assert defect(model) < 1e-13


def test_nothing_is_left_once_the_optimiser_is_gone():
    model, plain = net(), net()
    optimiser = taut.optim.Adam(model.parameters())
    backward(model)
    assert all(map(is_own_basis, raws_among(model.parameters())))
    del optimiser
    gc.collect()
    model.zero_grad()
    for one in (model, plain):
        backward(one)
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(gradient(a), gradient(b)) for a, b in pairs)


def test_other_models_are_read_as_ever():
    model, plain = net(), net()
    optimiser = taut.optim.Adam(model.parameters())
    copied = copy.deepcopy(model)
    for one in (plain, copied):
        with Operations() as operations:
            backward(one)
        assert operations.count(*BASIS) > 0
    assert optimiser.state == {}


@each_optimiser
@pytest.mark.parametrize("first", ["model", "optimiser"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_resumed_training_is_bit_equal(make, first, dtype):
    whole, resumed = net(dtype), net(dtype, seed=4)
    optimiser = make(whole.parameters())
    train(whole, optimiser, 3)
    file = io.BytesIO()
    torch.save({"model": whole.state_dict(), "optimiser": optimiser.state_dict()}, file)
    train(whole, optimiser, 3, start=3)
    file.seek(0)
    saved, again = torch.load(file), make(resumed.parameters())
    parts = {"model": resumed, "optimiser": again}
    for name in sorted(parts, key=lambda name: name != first):
        parts[name].load_state_dict(saved[name])
    train(resumed, again, 3, start=3)
    assert same(whole, resumed)


@each_optimiser
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(make, copier):
    model = net()
    optimiser = make(model.parameters())
    train(model, optimiser, 2)
    pair = copier((model, optimiser))
    train(model, optimiser, 3, start=2)
    train(*pair, steps=3, start=2)
    assert same(model, pair[0])
    assert defect(pair[0]) < 1e-13
    with Operations() as operations:
        backward(pair[0])
    assert operations.count(*BASIS) == 0
    pair[1].load_state_dict(pair[1].state_dict())
    assert len(pair[1]._optimizer_step_post_hooks) == 1
