"""Whole weights of equal layers in one call: as one by one, and so are gradients and state."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import taut
from fake_device import fake_device
from taut.linalg.bases import orthonormal_basis
from taut.linalg.packing import packed_bases, packs
from taut.parametrizations import read_weight
from taut.parametrizations._cache import kept_weight
from taut.parametrizations._stack import stacks

KINDS = {
    "BCOP": (partial(taut.BCOP, 4, 6, (3, 3)), 2),
    "BCOP without kernel": (partial(taut.BCOP, 4, 6, ()), 2),
    "BCOP strided": (partial(taut.BCOP, 3, 5, (3, 4), stride=(2, 2)), 3),
    "BCOP 1-D": (partial(taut.BCOP, 5, 2, (5,), stride=(2,)), 2),
    "BCOP 3-D": (partial(taut.BCOP, 4, 4, (2, 3, 1)), 2),
    "BCOP groups": (partial(taut.BCOP, 6, 4, (3, 2), groups=2), 3),
    "SCFac": (partial(taut.SCFac, 4, 4, (3, 3), rank=(1, 2, 2, 3)), 2),
    "FiniteReflector": (partial(taut.FiniteReflector, 4, 6, (5, 3)), 2),
    "RKO": (partial(taut.RKO, 4, 3, (3, 3), stride=(2, 1), groups=1), 2),
    "RKO groups": (partial(taut.RKO, 4, 6, (3, 3), groups=2), 2),
}


def layers(name: str, dtype: torch.dtype) -> nn.ModuleList:
    make, count = KINDS[name]
    owners = nn.ModuleList([make(dtype=dtype) for _ in range(count)])
    with torch.no_grad():
        for p in owners.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return owners


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(KINDS))
def test_weights_and_gradients_are_those_of_each_layer(name, dtype):
    owners, tolerance = layers(name, dtype), 1e-5 if dtype == torch.float32 else 1e-12
    parameters = list(owners.parameters())
    expected = [read_weight(owner) for owner in owners]
    targets = [torch.randn_like(weight) for weight in expected]

    def gradients(weights):
        total = sum((w * t).sum() for w, t in zip(weights, targets, strict=True))
        return torch.autograd.grad(total, parameters)

    with taut.batched(owners):
        found = [read_weight(owner) for owner in owners]
        assert all(kept_weight(o)[0] is w for o, w in zip(owners, found, strict=True))
        for a, b in zip(found, expected, strict=True):
            assert a.is_contiguous()
            assert torch.allclose(a, b, atol=tolerance)
        for a, b in zip(gradients(found), gradients(expected), strict=True):
            assert torch.allclose(a, b, atol=20 * tolerance)
    assert all(kept_weight(owner) is None for owner in owners)


@pytest.mark.parametrize("name", ["BCOP", "BCOP groups", "SCFac", "RKO", "FiniteReflector"])
def test_growth_off_the_cpu_is_that_on_it(name):
    owners = layers(name, torch.float64)
    expected = [read_weight(owner) for owner in owners]
    targets = [torch.randn_like(weight) for weight in expected]
    sum((w * t).sum() for w, t in zip(expected, targets, strict=True)).backward()
    device = fake_device()
    moved = device.module(copy.deepcopy(owners))
    moved.zero_grad()
    with device, taut.batched(moved):
        found = [read_weight(owner) for owner in moved]
        there = [device.tensor(t) for t in targets]
        sum((w * t).sum() for w, t in zip(found, there, strict=True)).backward()
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a.held, b, atol=1e-12)
    for p, own in zip(moved.parameters(), owners.parameters(), strict=True):
        assert torch.allclose(p.grad.held, own.grad, atol=1e-10)


SIZES = {
    "both ways": [(3, 5), (5, 3), (4, 4), (1, 7), (6, 2), (2, 9)],
    "as in a net": [(3, 8), (8, 8), (8, 16), (16, 16)],
}


@pytest.mark.parametrize("sizes", list(SIZES))
@pytest.mark.parametrize(
    "kernel", [((3, 3), (1, 1)), ((4, 4), (2, 2)), ((3,), (2,)), ((2, 3, 1), None)]
)
@pytest.mark.parametrize("method", [taut.BCOP, taut.SCFac])
def test_layers_of_several_sizes_off_the_cpu(method, kernel, sizes):
    (size, stride), factory = kernel, {"dtype": torch.float64}
    pairs = [pair for pair in SIZES[sizes] if max(pair) > 1]
    owners = nn.ModuleList([method(*pair, size, stride=stride, **factory) for pair in pairs])
    with torch.no_grad():
        for p in owners.parameters():
            p.add_(0.3 * torch.randn_like(p))
    expected = [read_weight(owner) for owner in owners]
    targets = [torch.randn_like(weight) for weight in expected]
    sum((w * t).sum() for w, t in zip(expected, targets, strict=True)).backward()
    device = fake_device()
    moved = device.module(copy.deepcopy(owners))
    moved.zero_grad()
    stacked = {owner for stack in stacks(moved) for owner in stack.owners}
    # By the side that the steps act on; one may be alone there, one without channels for steps.
    assert len(stacks(moved)) <= 2
    assert len(stacked) >= len(owners) - 2
    with device, taut.batched(moved):
        found = [read_weight(owner) for owner in moved]
        assert {owner for owner in moved if kept_weight(owner) is not None} == stacked
        sum((w * device.tensor(t)).sum() for w, t in zip(found, targets, strict=True)).backward()
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a.held, b, atol=1e-12)
    for p, own in zip(moved.parameters(), owners.parameters(), strict=True):
        assert torch.allclose(p.grad.held, own.grad, atol=1e-10)


def test_large_layers_are_not_embedded_in_larger_ones():
    device = fake_device()
    owners = [device.module(taut.BCOP(c, c, (1, 2))) for c in (400, 256, 400, 256)]
    found = stacks(owners)
    assert [stack.owners for stack in found] == [owners[::2], owners[1::2]]


def test_second_derivatives_by_inputs():
    model = nn.Sequential(*(taut.nn.Conv2d(2, 2, 3, dtype=torch.float64) for _ in range(2)))
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    with taut.batched(model):

        def sine(y):
            return model(y).sin().sum()

        assert torch.autograd.gradgradcheck(sine, x)


def test_only_layers_that_agree_are_stacked():
    owners = [
        taut.BCOP(4, 4, (3, 3)),
        taut.BCOP(4, 4, (3, 3)),
        taut.BCOP(4, 4, (3, 3), dtype=torch.float64),
        taut.BCOP(4, 4, (3, 3), stride=(1, 2)),
        taut.SCFac(4, 4, (3, 3)),
        taut.BCOP(4, 4, (3, 3)).requires_grad_(False),
        taut.BCOP(8, 8, (3, 3), groups=2),
    ]
    (stack,) = stacks(owners)
    assert stack.owners == owners[:2]
    # On a CPU layers of so many channels may apply their factors, and need no kernel then.
    assert not stacks([taut.BCOP(64, 64, (3, 3)) for _ in range(2)])


def test_changed_layers_are_computed_again():
    owners = layers("BCOP", torch.float64)
    with taut.batched(owners), torch.no_grad():
        next(owners[0].parameters()).mul_(-1.5).add_(0.3)
        assert kept_weight(owners[0]) is None
        assert torch.equal(read_weight(owners[0]), copy.deepcopy(owners[0]).weight())
        assert kept_weight(owners[1]) is not None
        read_weight(owners[1]).zero_()
        assert torch.allclose(read_weight(owners[1]), copy.deepcopy(owners[1]).weight())


def test_layers_of_a_users_own_with_settings_that_cannot_be_compared():
    owners = layers("BCOP", torch.float64)
    for owner in owners:
        owner.notes = []
    assert not stacks(owners)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_bases_are_those_of_each_shape(dtype):
    shapes = [(2, 5, 3), (1, 1, 1), (3, 7, 7), (1, 9, 1), (2, 4, 2)]
    raws = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    targets = [torch.randn(shape, dtype=dtype) for shape in shapes]
    alone = [orthonormal_basis(raw) for raw in raws]
    together = packed_bases(raws)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11

    def gradients(bases):
        return torch.autograd.grad(
            sum((b * t).sum() for b, t in zip(bases, targets, strict=True)), raws
        )

    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a, b, atol=tolerance)
    for a, b in zip(gradients(alone), gradients(together), strict=True):
        assert torch.allclose(a, b, atol=100 * tolerance)


def test_packs_hold_each_stack_once_and_no_large_one_with_others():
    shapes = [(4, 64, 32), (1, 4096, 512), (1, 512, 512), (1, 64, 3), (2, 256, 128)]
    found = packs(shapes)
    assert sorted(place for pack in found for place in pack) == list(range(len(shapes)))
    assert sorted(sorted(pack) for pack in found) == [[0, 3, 4], [1], [2]]


def test_raw_tensors_that_are_frozen_inside_are_learned_no_more():
    model = nn.Sequential(*(taut.nn.Conv2d(4, 4, 3) for _ in range(2)))
    linear = nn.Sequential(*(taut.nn.Linear(4, 4) for _ in range(2)))
    for net, x in ((model, torch.randn(2, 4, 5, 5)), (linear, torch.randn(2, 4))):
        with taut.batched(net):
            net[0].parametrization.requires_grad_(False)
            net(x).sum().backward()
        assert all(raw.grad is None for raw in net[0].parametrization.parameters())
        assert all(raw.grad is not None for raw in net[1].parameters())
        assert not net[0].weight.requires_grad


def test_transforms_inside_of_the_context_and_around_it():
    class Entering(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with taut.batched(self.net):
                return self.net(x)

    model = nn.Sequential(*(taut.nn.Conv2d(4, 4, 3) for _ in range(2))).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    raws = {name: p.detach() for name, p in model.named_parameters()}
    several = {name: torch.stack((p, torch.randn_like(p))) for name, p in raws.items()}

    def loss(net: nn.Module, raws: dict) -> torch.Tensor:
        return torch.func.functional_call(net, raws, (x,)).square().sum()

    def found(net: nn.Module, prefix: str) -> list:
        given = [{prefix + name: p for name, p in d.items()} for d in (raws, several)]
        gradients = torch.func.grad(lambda d: loss(net, d))(given[0])
        return [*gradients.values(), torch.func.vmap(lambda d: loss(net, d))(given[1])]

    expected = found(model, "")
    with taut.batched(model):
        torch.testing.assert_close(found(model, ""), expected)
    torch.testing.assert_close(found(Entering(model), "net."), expected)
