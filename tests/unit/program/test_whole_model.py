"""Bases of a whole model at once, raw tensors replaced by their bases, and steps noticed."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim.optimizer import register_optimizer_step_post_hook

import taut
from taut.linalg import packing
from taut.parametrizations import methods


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [taut.nn.Conv2d(4, 4, 3, dtype=dtype), taut.nn.MaxMin()]
    dense = [taut.nn.Linear(16, 16, dtype=dtype), taut.nn.Linear(16, 16, dtype=dtype)]
    return nn.Sequential(*layers, nn.Flatten(), *dense, taut.nn.Linear(16, 3, dtype=dtype))


def stirred(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(model(x).pow(3).sum(), list(model.parameters())))


def test_batched_changes_no_result_and_no_gradient():
    model, x = stirred(net()), torch.randn(2, 4, 2, 2, dtype=torch.float64)
    expected, output = gradients(model, x), model(x)
    with taut.batched(model):
        found = gradients(model, x)
        assert torch.allclose(model(x), output)
    assert all(torch.allclose(a, b) for a, b in zip(expected, found, strict=True))


def test_batched_makes_one_call_per_shape_however_often_the_model_is_called(monkeypatch):
    model, x, calls = net(), torch.randn(2, 4, 2, 2, dtype=torch.float64), []

    def counted(raw):
        calls.append(raw.shape)
        return basis(raw)

    basis = packing.orthonormal_basis
    monkeypatch.setattr(packing, "orthonormal_basis", counted)
    monkeypatch.setattr("taut.parametrizations._cache.orthonormal_basis", counted)
    with taut.batched(model):
        assert sorted(calls) == [(2, 16, 16), (3, 4, 4), (12, 4, 2)]
        model(x)
        (model(x) + model(2 * x)).sum().backward()
        assert len(calls) == 3
    model(x)
    assert len(calls) > 3


def test_batched_never_serves_a_stale_basis():
    model, x = net(), torch.randn(2, 4, 2, 2, dtype=torch.float64)
    with taut.batched(model):
        model(x)
        stirred(model)
        found = model(x)
    assert torch.equal(found, model(x))


def test_batched_entered_without_gradients_loses_none():
    model, x = net(), torch.randn(2, 4, 2, 2, dtype=torch.float64)
    expected = gradients(model, x)
    with torch.no_grad(), taut.batched(model), torch.enable_grad():
        found = gradients(model, x)
    assert all(torch.allclose(a, b) for a, b in zip(expected, found, strict=True))


def test_batched_contexts_nest_and_end():
    first, second = net(), net()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    with taut.batched(first):
        with taut.batched(second):
            assert torch.allclose(first(x), copy.deepcopy(first)(x))
        assert torch.allclose(second(x), copy.deepcopy(second)(x))
    with pytest.raises(RuntimeError, match="stop"), taut.batched(first):
        raise RuntimeError("stop")
    assert taut.parametrizations._cache.kept_basis(next(first.parameters())) is None


def test_batched_under_autocast_and_no_grad():
    model, x = net(torch.float32), torch.randn(2, 4, 2, 2)
    with torch.autocast("cpu", torch.bfloat16), taut.batched(model):
        assert model(x).dtype == torch.bfloat16
    with torch.no_grad(), taut.batched(model), taut.cached():
        assert torch.allclose(model(x), copy.deepcopy(model)(x), atol=1e-6)


@pytest.mark.parametrize("name", [name for name, kind in methods().items() if kind.reads_bases])
def test_retraction_keeps_the_function_and_mends_the_condition(name):
    kind = methods()[name]
    size = () if kind.matrices_only else (3, 3)
    part = stirred(kind(4, 6, size, dtype=torch.float64))
    before = part.weight()
    taut.retract_(part)
    assert torch.allclose(part.weight(), before, atol=1e-12)
    for raw in part.parameters():
        assert torch.allclose(torch.linalg.svdvals(raw), torch.ones((), dtype=raw.dtype))


def test_retraction_leaves_a_method_alone_that_reads_more_than_bases():
    class Doubled(taut.parametrizations.AbstractParametrization):
        guarantee = "none"
        reference = "none"

        def raw_shapes(self):
            return {"raw": (self.out_channels, self.in_channels)}

        def weight(self):
            return 2 * self.raw

    part = stirred(Doubled(3, 4))
    before = part.weight()
    taut.retract_(part)
    with taut.batched(nn.Sequential(part, part)):
        assert torch.equal(part.weight(), before)


def test_retraction_between_optimiser_steps_goes_on_training():
    model, x = net(), torch.randn(8, 4, 2, 2, dtype=torch.float64)
    optimiser, losses = Adam(model.parameters(), lr=1e-2), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (model(x) - 1).pow(2).sum()
        loss.backward()
        optimiser.step()
        taut.retract_(model)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("context", [taut.cached, None])
@pytest.mark.parametrize("kind", [Adam, torch.optim.SGD])
def test_steps_of_fused_optimisers_are_noticed(kind, context):
    model, x = net(torch.float32), torch.randn(2, 4, 2, 2)
    optimiser = kind(model.parameters(), lr=0.3, fused=True)
    with taut.batched(model) if context is None else context():
        with torch.no_grad():
            model(x)
        model(x).sum().backward()
        optimiser.step()
        with torch.no_grad():
            found = model(x)
    with torch.no_grad():
        assert torch.allclose(found, copy.deepcopy(model)(x), atol=1e-5)


def test_contexts_may_be_entered_while_an_optimiser_steps():
    """As another thread may: torch iterates over its hooks then."""
    model = nn.Linear(2, 2)

    def enter(*_):
        with taut.cached(), taut.batched(model):
            pass

    hook = register_optimizer_step_post_hook(enter)
    try:
        torch.optim.SGD(model.parameters()).step()
    finally:
        hook.remove()


def test_steps_are_noticed_until_the_last_thread_leaves_its_context():
    model, x = net(torch.float32), torch.randn(2, 4, 2, 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, fused=True)
    entered, left = threading.Event(), threading.Event()

    def other():
        with taut.cached():
            entered.set()
            left.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    with torch.no_grad(), taut.cached():
        before = model(x)
        left.set()
        thread.join()
        with torch.enable_grad():
            model(x).sum().backward()
        optimiser.step()
        found = model(x)
    assert not torch.equal(found, before)
    version = next(model.parameters())._version
    with torch.no_grad():
        assert torch.allclose(found, copy.deepcopy(model)(x), atol=1e-5)
    optimiser.step()  # counted by nobody: outside of contexts a step costs nothing more
    assert next(model.parameters())._version == version


@pytest.mark.parametrize(("every", "retracted"), [(3, [3, 6]), (0, []), (1, [1, 2, 3, 4, 5, 6])])
def test_after_step_updates_always_and_retracts_when_it_is_its_turn(every, retracted, monkeypatch):
    layer, updates = stirred(taut.nn.Linear(3, 3)), []
    monkeypatch.setattr(taut.Orthogonal, "update_", lambda self, step: updates.append(step))
    found = []
    for step in range(1, 7):
        stirred(layer)
        raw = layer.parametrization.raw_matrix.detach().clone()
        taut.after_step(layer, step, retract_every=every)
        if not torch.equal(layer.parametrization.raw_matrix, raw):
            found.append(step)
    assert found == retracted
    assert updates == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="`retract_every` must be an integer >= 0; got -1"):
        taut.after_step(layer, 1, retract_every=-1)


def test_batched_single_channels_and_frozen_layers():
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    single = nn.Sequential(*(taut.nn.Conv2d(1, 1, 1, dtype=torch.float64) for _ in range(2)))
    with taut.batched(single):
        assert torch.equal(single(x), single(x))
    model = nn.Sequential(*(taut.nn.Linear(4, 4, dtype=torch.float64) for _ in range(3)))
    model[0].requires_grad_(False)
    for _ in range(2):
        with taut.cached(), taut.batched(model):
            model(x).sum().backward()


def test_written_bases_are_not_served():
    model = nn.Sequential(taut.nn.Linear(4, 4), taut.nn.Linear(4, 4))
    expected = model[0].weight.clone()
    with torch.no_grad(), taut.batched(model):
        model[0].weight.mul_(2)
        assert torch.equal(model[0].weight, expected)
