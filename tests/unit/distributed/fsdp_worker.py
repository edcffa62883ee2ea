"""Run in each of two processes by test_fsdp.py: what holds of a sharded model, by name."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

import taut
from processes import RANK, check, run_checks
from taut.losses import Margins
from taut.parametrizations import methods

SHAPE = (1, 6, 6)
IMAGES = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(8) % 3
METHODS = {n: cls for n, cls in methods().items() if n != "ECO"}  # whose sizes are others


def network(method=taut.BCOP, dense=taut.Orthogonal):
    torch.manual_seed(0)
    options = {"dtype": torch.float64}
    return nn.Sequential(
        taut.nn.Conv2d(1, 4, 3, parametrization=method, **options),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 4, 3, parametrization=method, **options),
        taut.nn.HouseHolder(4, **options),
        nn.Flatten(),
        taut.nn.Linear(144, 5, parametrization=dense, **options),
        taut.nn.Linear(5, 5, parametrization=dense, **options),
        taut.nn.Linear(5, 3, parametrization=dense, **options),
    )


def sharded(model, each=True):
    """The same model over two processes: a group for each layer, and one for the rest."""
    model = copy.deepcopy(model)
    for layer in model if each else ():
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    return fully_shard(model)


def pair(*arguments):
    model = network(*arguments)
    return model, sharded(model)


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_equal(model, other, atol=1e-12):
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in other.named_parameters()]
    assert all(isinstance(p, DTensor) for p in other.parameters())
    states = zip(model.state_dict().items(), other.state_dict().values(), strict=True)
    for (name, value), shard in states:
        assert torch.allclose(value, whole(shard), atol=atol, rtol=0), name


def own_part(x):
    return x.chunk(2)[RANK]


def loss_of(model, images, labels):
    return F.cross_entropy(model(images), labels)


def step(model, images, labels, optimiser, number, retract_every=2, batched=False):
    with taut.batched(model) if batched else torch.enable_grad():
        loss_of(model, images, labels).backward()
    gradients = [whole(p.grad).clone() for p in model.parameters()]
    optimiser.step()
    optimiser.zero_grad()
    taut.after_step(model, number, retract_every=retract_every)
    return gradients


def trains_alike(model, other, batched=False, steps=3, lr=0.1):
    optimisers = [torch.optim.SGD(m.parameters(), lr=lr) for m in (model, other)]
    for number in range(1, steps + 1):
        expected = step(model, IMAGES, LABELS, optimisers[0], number)
        parts = own_part(IMAGES), own_part(LABELS)
        found = step(other, *parts, optimisers[1], number, batched=batched)
        for one, two in zip(expected, found, strict=True):
            assert torch.allclose(one, two, atol=1e-12, rtol=1e-9)
    assert_equal(model, other, atol=1e-11)


@check
def training():
    trains_alike(*pair())


@check
def training_within_batched():
    trains_alike(*pair(), batched=True)


@check
def training_in_one_group():
    model = network()
    trains_alike(model, sharded(model, each=False), batched=True)


@check
def training_in_replicas_of_shards():
    model = network()
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    other = fully_shard(copy.deepcopy(model), mesh=mesh)
    trains_alike(model, other, batched=True)


@check
def training_with_every_method():
    for method in METHODS.values():
        dense = method if method is not taut.BCOPFixed else taut.Orthogonal
        model, other = pair(method if not method.matrices_only else taut.RKO, dense)
        trains_alike(model, other, batched=True, steps=1)


@check
def batched_bases_serve_the_forward_pass():
    cache = sys.modules["taut.parametrizations._cache"]
    computed, basis = [], cache.orthonormal_basis
    cache.orthonormal_basis = lambda raw: computed.append(raw.shape) or basis(raw)
    counts = []
    try:
        for model in pair():
            for context in (torch.no_grad(), taut.batched(model)):
                computed.clear()
                with torch.no_grad(), context:
                    model(IMAGES)
                counts.append(len(computed))
    finally:
        cache.orthonormal_basis = basis
    assert counts[:2] == counts[2:]
    assert counts[1] < counts[0]


@check
def weights_are_read_whole():
    for method in METHODS.values():
        model, other = pair(method if not method.matrices_only else taut.RKO)
        for layer, twin in zip(model, other, strict=True):
            if hasattr(layer, "parametrization") and not layer.fills_input:
                assert torch.equal(layer.weight, twin.weight)


@check
def gradients_of_weights_that_are_read_are_means_over_processes():
    model, other = pair()
    (model[2].weight * 1.5).square().mul(torch.arange(3)).sum().backward()
    (other[2].weight.square() * 2.25 * torch.arange(3) * (1 + 2 * RANK) / 2).sum().backward()
    for one, two in zip(model[2].parameters(), other[2].parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            assert torch.allclose(one.grad, whole(two.grad), atol=1e-14)


@check
def weights_are_assigned():
    model, other = pair()
    weight = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    distributed.broadcast(weight, 0)
    for layer in (model[6], other[6]):
        layer.weight = weight
    assert_equal(model, other)
    before = copy.deepcopy(model)
    try:
        other[6].weight = torch.ones(5, 5, dtype=torch.float64)
    except ValueError:
        assert_equal(before, other)
    else:
        raise AssertionError("a matrix that is not orthogonal was taken")


@check
def weights_are_assigned_after_an_evaluation():
    """The root keeps its parameters gathered then."""
    model = network()
    other = sharded(model, each=False)
    with torch.no_grad():
        other(IMAGES)
        assert not any(isinstance(p, DTensor) for p in other.parameters())
        for layer in (model[6], other[6]):
            layer.weight = torch.eye(5, dtype=torch.float64)
        assert torch.equal(model(IMAGES), other(IMAGES))
    other.reshard()
    assert_equal(model, other)


@check
def raw_tensors_are_retracted():
    model, other = pair()
    with torch.no_grad():
        for m in (model, other):
            for p in m.parameters():
                p.mul_(3.0)
    with torch.no_grad():
        other(IMAGES)  # which leaves some parameters gathered
    for m in (model, other):
        taut.retract_(m)
    other.reshard()
    assert_equal(model, other)
    norms = torch.linalg.matrix_norm(whole(other[6].parametrization.raw_matrix), 2)
    assert abs(norms.item() - 1) < 1e-12


@check
def methods_are_updated():
    for method in (taut.OSSN, taut.SVCM):
        model, other = pair(method, method)
        with torch.no_grad():
            for m in (model, other):
                for p in m.parameters():
                    p.mul_(3.0)
        for m in (model, other):
            taut.update_(m, 100)
        assert_equal(model, other, atol=1e-10)


@check
def parameters_are_drawn_anew():
    for method in METHODS.values():
        model, other = pair(method if not method.matrices_only else taut.RKO)
        torch.manual_seed(5)
        for layer in model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        torch.manual_seed(5 + 7 * RANK)  # the others draw other numbers
        for layer in other:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        assert_equal(model, other)


@check
def models_start_on_meta():
    torch.manual_seed(3)
    with torch.device("meta"):
        other = network()
    other = sharded(other)
    other.to_empty(device="cpu")
    torch.manual_seed(3)
    model = network()
    torch.manual_seed(3 + RANK)
    for m in (model, other):
        torch.manual_seed(3)
        for layer in m:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    assert_equal(model, other)
    assert torch.allclose(model(IMAGES), other(IMAGES), atol=1e-12)


@check
def bounds_and_certificates():
    model, other = pair()
    assert float(taut.lipschitz_bound(model, SHAPE)) == float(taut.lipschitz_bound(other, SHAPE))
    one, two = (taut.certify(m.eval(), IMAGES, LABELS) for m in (model, other))
    assert torch.equal(one.radius, two.radius)
    one, two = (taut.predict(m, IMAGES) for m in (model, other))
    assert torch.equal(one.radius, two.radius)
    one, two = (taut.singular_values(m[2], (4, 6, 6)) for m in (model, other))
    assert torch.equal(one, two)
    assert_equal(model, other)
    assert isinstance(other, FSDPModule)
    assert isinstance(other[0], FSDPModule)


@check
def margins_are_refused():
    with pytest.raises(ValueError, match=r"^`model` must not be sharded"):
        Margins(pair()[1], SHAPE)


@check
def training_goes_on_after_a_certificate():
    model, other = pair()
    trains_alike(model, other)
    taut.certify(other.eval(), IMAGES, LABELS)
    other.train()
    trains_alike(model, other)


@check
def models_are_frozen():
    model, other = pair()
    trains_alike(model, other, steps=1)
    frozen = taut.freeze(other).eval()
    assert not any(isinstance(m, FSDPModule) for m in frozen.modules())
    assert all(type(p) is nn.Parameter for p in frozen.parameters())
    assert not any("fsdp" in name for m in frozen.modules() for name in vars(m))
    with torch.no_grad():
        assert torch.allclose(frozen(IMAGES), model.eval()(IMAGES), atol=1e-12)
        distributed.barrier()
    assert_equal(model, other, atol=1e-11)


@check
def models_are_projected():
    model, other = pair(taut.SVCM, taut.SVCM)
    copies = [taut.projected(m) for m in (model, other)]
    assert not isinstance(copies[1], FSDPModule)
    for one, two in zip(copies[0].parameters(), copies[1].parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-12)
    assert_equal(model, other)


@check
def models_are_inspected():
    model, other = pair()
    one, two = (taut.diagnostics.inspect(m, IMAGES, LABELS) for m in (model, other))
    assert torch.allclose(one.jacobian, two.jacobian)
    assert [x.name for x in one.layers] == [x.name for x in two.layers]


@check
def models_are_attacked():
    model, other = pair()
    one, two = (
        taut.attack(m.eval(), IMAGES, LABELS, 0.5, steps=3, generator=torch.Generator())
        for m in (model, other)
    )
    assert torch.equal(one.adversarial, two.adversarial)


@check
def models_are_exported():
    model, other = pair()
    path = Path(sys.argv[1], f"model-{RANK}.safetensors")
    exported = taut.export.export(other.eval(), path, SHAPE)
    with torch.no_grad():
        assert torch.allclose(exported.model(IMAGES), model.eval()(IMAGES), atol=1e-12)
    assert_equal(model, other)


@check
def plain_models_are_converted():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    other = sharded(plain)
    converted = [taut.convert(m, SHAPE, init="nearest").model for m in (plain, other)]
    assert not isinstance(converted[1], FSDPModule)
    shapes = [[p.shape for p in m.parameters()] for m in converted]
    assert shapes[0] == shapes[1]
    assert type(converted[1][0]) is taut.nn.Conv2d
    assert_equal(plain, other)


@check
def weights_are_cached_until_they_change():
    model, other = pair()
    seen = []
    weight = taut.BCOP.weight
    taut.BCOP.weight = lambda self: seen.append(self) or weight(self)
    try:
        with torch.no_grad(), taut.cached():
            for _ in range(3):
                assert torch.allclose(model(IMAGES), other(IMAGES), atol=1e-12)
            assert len(seen) == 4
            for number in (1, 2):
                optimiser = torch.optim.SGD(other.parameters(), lr=0.1)
                with torch.enable_grad():
                    loss_of(other, own_part(IMAGES), own_part(LABELS)).backward()
                before = other[2].weight.clone()
                optimiser.step()
                taut.after_step(other, number, retract_every=2)
                with taut.gathered(other):
                    frozen = taut.freeze(other)
                other.reshard()
                assert not torch.allclose(before, other[2].weight)
                assert torch.allclose(frozen(IMAGES), other(IMAGES), atol=1e-12)
    finally:
        taut.BCOP.weight = weight


@check
def a_context_gathers_and_writes_back():
    model, other = pair()
    types = [type(m) for m in other.modules()]
    shared = nn.ModuleList([other[6], other[6]])
    with taut.gathered(other):
        assert type(other) is nn.Sequential
        assert type(other[0]) is taut.nn.Conv2d
        assert all(type(p) is nn.Parameter for p in other.parameters())
        assert copy.deepcopy(other)(IMAGES).shape == (8, 3)
        with taut.gathered(other), torch.no_grad():
            for m in (model, other):
                m[6].bias.fill_(2.0)
    assert [type(m) for m in other.modules()] == types
    assert_equal(model, other)
    with taut.gathered(shared):
        assert shared[0].bias is shared[1].bias
    try:
        with taut.gathered(other):
            raise KeyError
    except KeyError:
        assert_equal(model, other)
    assert torch.allclose(model(IMAGES), other(IMAGES), atol=1e-12)


if __name__ == "__main__":
    run_checks()
