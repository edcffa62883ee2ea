"""Optimisers on the manifold in the places where torch's are used."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

import taut
from optim_cases import backward, defect, each_optimiser, gradient, images, net, same, train
from taut.parametrizations import raws_among


@each_optimiser
def test_groups_and_schedulers(make):
    model, once = net(), net()
    groups = [
        {"params": model[:3].parameters(), "lr": 0.0},
        {"params": model[3:].parameters()},
    ]
    optimiser = make(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 2.0**epoch)
    for epoch in range(3):
        train(model, optimiser, 1, start=epoch)
        schedule.step()
    pairs = zip(model[:3].parameters(), once[:3].parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in pairs)
    other = make(once[3:].parameters())
    for epoch in range(3):
        other.param_groups[0]["lr"] = other.defaults["lr"] * 2.0**epoch
        train(once, other, 1, start=epoch)
    pairs = zip(model.parameters(), once.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in pairs)


@each_optimiser
def test_a_group_added_later(make):
    model = net()
    optimiser = make(model[:3].parameters())
    optimiser.add_param_group({"params": model[3:].parameters()})
    train(model, optimiser, 2)
    assert defect(model) < 1e-13


@each_optimiser
def test_closures_clipping_and_hooks(make):
    model, other, calls = net(), net(), []
    optimiser = make(model.parameters())
    optimiser.register_step_post_hook(lambda *_: calls.append(defect(model)))
    torch.optim.AdamW(nn.Linear(2, 2).parameters())  # makes torch hook its own class

    def closure():
        optimiser.zero_grad()
        loss = backward(model)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        return loss

    assert optimiser.step(closure) == pytest.approx(backward(net()))
    again = make(other.parameters())
    backward(other)
    norm = nn.utils.clip_grad_norm_(other.parameters(), 0.1)
    again.step()
    assert norm > 0.1
    assert same(model, other)
    assert len(calls) == 1
    assert calls[0] < 1e-13


@each_optimiser
def test_accumulated_gradients_are_those_of_the_whole_batch(make):
    parts, whole = net(), net()
    x, labels = images()
    optimisers = [make(model.parameters()) for model in (parts, whole)]
    for chunk, few in zip(x.split(4), labels.split(4), strict=True):
        (nn.functional.cross_entropy(parts(chunk), few) / 2).backward()
    backward(whole)
    for optimiser in optimisers:
        optimiser.step()
    pairs = zip(parts.parameters(), whole.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in pairs)


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients(fused):
    model, scaled = net(torch.float32), net(torch.float32)
    train(model, taut.optim.Adam(model.parameters(), fused=fused), 1)
    optimiser = taut.optim.Adam(scaled.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x, labels = images(torch.float32)
    for bad in (True, False):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(scaled(x), labels)
        scaler.scale(loss * (torch.inf if bad else 1)).backward()
        scaler.step(optimiser)
        scaler.update()
    pairs = zip(model.parameters(), scaled.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=2e-6) for a, b in pairs)


def test_autocast_and_checkpointing():
    model, plain = net(torch.float32), net(torch.float32)
    x = images(torch.float32)[0]
    optimiser = taut.optim.Adam(model.parameters())
    checkpoint_sequential(model, 3, x, use_reentrant=False).sum().backward()
    plain_optimiser = taut.optim.Adam(plain.parameters())
    plain(x).sum().backward()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.allclose(gradient(a), gradient(b), atol=1e-5) for a, b in pairs)
    with torch.autocast("cpu", torch.bfloat16):
        model(x).sum().backward()
    optimiser.step()
    plain_optimiser.step()
    assert defect(model) < 1e-6


def test_several_dtypes_in_one_optimiser():
    first, last = net(torch.float32), taut.nn.Linear(3, 5, dtype=torch.float64)
    small = taut.nn.Linear(6, 4, dtype=torch.bfloat16)
    optimiser = taut.optim.SGD(nn.ModuleList([first, last, small]).parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        last(first(images(torch.float32)[0]).double()).square().sum().backward()
        small(torch.ones(2, 6, dtype=torch.bfloat16)).sum().backward()
        optimiser.step()
    assert defect(first) < 1e-6
    assert defect(last) < 1e-13
    assert defect(small) < 2e-2


@each_optimiser
def test_what_has_no_gradient_stays(make):
    model = net()
    model[0].requires_grad_(False)
    before = [p.clone() for p in model[0].parameters()]
    unused = taut.nn.Linear(4, 4)
    (weight,) = [p.clone() for p in unused.parametrization.parameters()]
    train(model, make([*model.parameters(), *unused.parameters()]), 2)
    assert all(torch.equal(a, b) for a, b in zip(before, model[0].parameters(), strict=True))
    assert torch.equal(weight, next(unused.parametrization.parameters()))


@each_optimiser
def test_gradient_penalties(make):
    """A critic whose slopes are trained, against finite differences along the manifold."""
    torch.manual_seed(0)
    model = nn.Sequential(
        taut.nn.Linear(5, 9, dtype=torch.float64), nn.Tanh(), taut.nn.Linear(9, 1).double()
    )
    train_ = make(model.parameters())
    x = torch.randn(4, 5, dtype=torch.float64)

    def penalty() -> torch.Tensor:
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(at).sum(), at, create_graph=True)
        return (slope.norm(dim=1) - 0.5).square().sum()

    model(x).sum().backward()
    train_.step()
    train_.zero_grad()
    penalty().backward()
    for raw in raws_among(model.parameters()):
        move = torch.randn_like(raw)
        inside = raw.detach().T @ move
        tangent = move - raw.detach() @ (inside + inside.T) / 2
        slope, start, h = float((gradient(raw) * tangent).sum()), raw.detach().clone(), 1e-5
        values = []
        for sign in (1, -1):
            u, _, v = torch.linalg.svd(start + sign * h * tangent, full_matrices=False)
            with torch.no_grad():
                raw.copy_(u @ v)
            values.append(penalty().item())
        with torch.no_grad():
            raw.copy_(start)
        assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-4, abs=1e-8)


def test_the_gradient_by_a_raw_tensor_is_differentiated_once():
    layer = taut.nn.Linear(4, 3)
    optimiser = taut.optim.Adam(layer.parameters())
    raw = next(layer.parametrization.parameters())
    for y in (layer(torch.ones(2, 4)), layer.weight):
        (grad,) = torch.autograd.grad(y.square().sum(), raw, create_graph=True)
        with pytest.raises(NotImplementedError, match="cannot be differentiated again"):
            grad.sum().backward()
    optimiser.step()


@pytest.mark.parametrize("make", [taut.optim.Adam, taut.optim.SGD])
def test_what_cannot_be_kept_is_refused(make):
    layer = taut.nn.Linear(3, 4, device="meta")
    with pytest.raises(ValueError, match="meta device"):
        make(layer.parameters())
    with pytest.raises(ValueError, match="differentiable"):
        make(taut.nn.Linear(3, 4).parameters(), differentiable=True)
    with pytest.raises(ValueError, match="learning rate"):
        make(taut.nn.Linear(3, 4).parameters(), lr=-1.0)
    layer = taut.nn.Linear(3, 4)
    optimiser = make(layer.parameters(), lr=0.1)
    (layer(torch.ones(1, 3)).sum() * torch.nan).backward()
    with pytest.raises(ValueError, match="must be finite"):
        optimiser.step()
