"""Run in each of two processes by test_sharing.py: what holds under DDP, by name."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import taut
from processes import RANK, check, run_checks
from taut.losses import HingeKR, HingeKRMulticlass, MultiMargin, kinds, label_counts
from taut.parametrizations import methods

GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.rand(9, 1, 6, 6, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 0, 0, 0, 1, 2, 1, 2, 2])  # 0 in the first process alone


def network(method=taut.BCOP, dense=taut.Orthogonal, outputs=3, **options):
    torch.manual_seed(0)
    options = {"dtype": torch.float64} | options
    return nn.Sequential(
        taut.nn.Conv2d(1, 4, 3, parametrization=method, **options),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 4, 3, parametrization=method, **options),
        nn.Flatten(),
        taut.nn.Linear(144, 5, parametrization=dense, **options),
        taut.nn.Linear(5, 5, parametrization=dense, **options),
        taut.nn.Linear(5, outputs, parametrization=dense, **options),
    )


def part(x):
    """Uneven shares, of five and of four images."""
    return (x[:5], x[5:])[RANK]


def gradients(model, images, labels, shared, loss=None, repeats=1):
    wrapped = DistributedDataParallel(model)
    for _ in range(repeats):
        with taut.shared_weights(model) if shared else nullcontext():
            outputs = wrapped(images)
        value = (loss or MultiMargin())(outputs, labels)
        value.backward()
    return outputs.detach(), [p.grad.clone() for p in model.parameters()]


def assert_alike(model, other):
    for one, two in zip(model, other, strict=True):
        assert torch.allclose(one, two, atol=1e-12, rtol=1e-9)


@check
def gradients_are_those_of_plain_ddp():
    for method in methods().values():
        if method.__name__ == "ECO":
            continue
        kernels = taut.RKO if method.matrices_only else method
        model = network(kernels, taut.Orthogonal if method is taut.BCOPFixed else method)
        other = copy.deepcopy(model)
        y, plain = gradients(model, part(IMAGES), part(LABELS), shared=False)
        z, shared = gradients(other, part(IMAGES), part(LABELS), shared=True)
        assert torch.allclose(y, z, atol=1e-12), method
        assert_alike(plain, shared)


@check
def residual_layers_share_their_scales():
    for method in (taut.SLL, taut.CPL, taut.AOL):
        torch.manual_seed(0)
        layer = taut.nn.PotentialResidual2d(2, 3, 3, parametrization=method, dtype=torch.float64)
        model = nn.Sequential(layer, nn.Flatten(), taut.nn.Linear(72, 3, dtype=torch.float64))
        images, other = part(IMAGES).repeat(1, 2, 1, 1), copy.deepcopy(model)
        y, plain = gradients(model, images, part(LABELS), shared=False)
        z, shared = gradients(other, images, part(LABELS), shared=True)
        assert torch.allclose(y, z, atol=1e-12)
        assert_alike(plain, shared)


@check
def gradients_add_up():
    model = network()
    other = copy.deepcopy(model)
    arguments = part(IMAGES), part(LABELS)
    assert_alike(
        gradients(model, *arguments, shared=False, repeats=3)[1],
        gradients(other, *arguments, shared=True, repeats=3)[1],
    )


@check
def each_weight_is_computed_in_one_process():
    model = network(dense=taut.AOL)
    seen, weights = [], (taut.BCOP.weight, taut.AOL.weight)
    taut.BCOP.weight = lambda self: seen.append(self) or weights[0](self)
    taut.AOL.weight = lambda self: seen.append(self) or weights[1](self)
    try:
        with taut.shared_weights(model):
            model(part(IMAGES))
            model(part(IMAGES))
            counts = torch.tensor([len(seen)])
            distributed.all_reduce(counts)
            assert counts == 5
            assert len(seen) in (1, 2, 3, 4)
            with torch.no_grad():
                model[5].parametrization.raw_kernel.mul_(-1.0)
            before = len(seen)
            assert torch.allclose(model[5].weight, weights[1](model[5].parametrization))
            assert len(seen) == before + 1
    finally:
        taut.BCOP.weight, taut.AOL.weight = weights
    with torch.no_grad():
        expected = model(IMAGES)
        with taut.shared_weights(model):
            assert torch.equal(model(IMAGES), expected)


@check
def matrices_with_factors_stay_where_they_are():
    model = network()
    x = torch.rand(2, 5, dtype=torch.float64)
    with taut.shared_weights(model):
        assert model[5].parametrization.transform(x, None, None) is not None
        assert torch.allclose(model[5](x), nn.functional.linear(x, model[5].weight, model[5].bias))


@check
def autocast_and_float32():
    model = network(dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), taut.shared_weights(model):
        weight = model[2].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model[2].weight)


@check
def more_processes_than_layers():
    model = network(dense=taut.AOL)[-1:]
    other = copy.deepcopy(model)
    x = torch.rand(9, 5, generator=GENERATOR, dtype=torch.float64)
    assert_alike(
        gradients(model, part(x), part(LABELS), shared=False)[1],
        gradients(other, part(x), part(LABELS), shared=True)[1],
    )


@check
def losses_are_those_of_the_whole_batch():
    """Under DDP, on shares of different sizes, of which one lacks a class."""
    for cls in kinds().values():
        loss = cls()
        outputs = 1 if loss.kind in ("kr", "hinge-kr") else 3
        labels = LABELS.clamp(max=1) if outputs == 1 else LABELS
        model = network(outputs=outputs)
        other = copy.deepcopy(model)
        expected = loss(model(IMAGES), labels)
        expected.backward()
        counts = label_counts(part(labels), 2 if outputs == 1 else 3)
        values = []

        def weighted(y, labels, loss=loss, counts=counts, values=values):
            values.append(loss(y, labels, counts=counts) * len(labels) * 2 / len(LABELS))
            return values[-1]

        _, found = gradients(other, part(IMAGES), part(labels), False, weighted)
        assert_alike([p.grad for p in model.parameters()], found)
        total = values[0].detach().clone()
        distributed.all_reduce(total)
        assert torch.allclose(total / 2, expected)


@check
def classes_that_no_process_has_are_refused():
    for loss, y in ((HingeKR(), torch.zeros(3)), (HingeKRMulticlass(), torch.zeros(3, 2))):
        labels = torch.ones(3).long()
        with pytest.raises(ValueError, match="`labels` must hold"):
            loss(y, labels, counts=label_counts(labels))


if __name__ == "__main__":
    run_checks()
