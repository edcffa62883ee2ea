"""Bases in training off the CPU: no number is read on the host."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import taut
from taut.linalg import one_route
from taut.linalg.bases import orthonormal_basis
from taut.linalg.one_route import one_route_basis, takes_one_route
from taut.parametrizations import methods

SIZES = [(1, 1), (7, 1), (5, 3), (33, 33), (96, 40)]
DTYPES = {torch.float32: (3e-7, 1e6), torch.float64: (1e-13, 1e6)}
SPECTRAL = {"BRO", "Cayley", "ECO", "LOT", "SpectralQR"}  # tables of frequencies from the host
METHODS = sorted(set(methods()) - SPECTRAL - {"Exponential"})

# Operations that read a number on the host, or bring numbers from there; and those in which torch
# asks such a question itself. Those of taut choose their route by values.
WAITING = {
    *("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique", "item"),
    *("lift_fresh", "_linalg_check_errors", "_linalg_svd", "_linalg_eigh", "linalg_matrix_exp"),
    *("orthonormal_basis", "orthonormal_factors"),
}


class Refusal(TorchDispatchMode):
    """Refuses every operation that would wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        leaves = tree_leaves(args)
        masked = any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in leaves)
        if name in WAITING or (name.startswith("index") and masked):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def off_the_host(monkeypatch):
    """The CPU counts as a device of its own."""
    monkeypatch.setattr(one_route, "HOST_DEVICES", ("meta",))


def conditioned(size, condition, dtype, generator):
    rows, columns = size
    factory = {"dtype": torch.float64, "generator": generator}
    left = torch.linalg.qr(torch.randn(rows, columns, **factory)).Q
    right = torch.linalg.qr(torch.randn(columns, columns, **factory)).Q
    sizes = torch.logspace(0, -1, columns, base=condition, dtype=torch.float64)
    return (left * sizes @ right).to(dtype)


def singular_values(q):
    return torch.linalg.svdvals(q.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_the_same_basis_up_to_its_condition(size, dtype):
    generator = torch.Generator().manual_seed(1)
    tolerance, largest = DTYPES[dtype]
    for condition in (1.0, 1e2, 1e4, largest):
        for scale in (1.0, 1e6, 1e-6, 1e-30):
            a = conditioned(size, condition, dtype, generator) * scale
            q, inverse = one_route_basis(a)
            assert (singular_values(q) - 1).abs().max() < tolerance
            exact, upper = torch.linalg.qr(a.double())
            sign = upper.diagonal().sign()
            found = torch.linalg.inv(upper * sign[:, None]).mT
            # The Gram matrix knows Q up to its rounding times the squared condition.
            assert (q - exact * sign).abs().max() < tolerance + 1e-15 * condition**2
            assert (inverse - found).abs().max() < (1e-9 + 1e-15 * condition**2) * found.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_small_singular_value_among_many(dtype):
    """The worst spectrum: the shift grows with the sum of squares."""
    n, generator = 256, torch.Generator().manual_seed(2)
    left, right = (conditioned((n, n), 1.0, torch.float64, generator) for _ in range(2))
    sizes = torch.ones(n, dtype=torch.float64)
    sizes[-1] = 1e-6
    q, _ = one_route_basis((left * sizes @ right).to(dtype))
    assert (singular_values(q) - 1).abs().max() < DTYPES[dtype][0]


def extremes():
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(64, 32, generator=generator)
    yield from (a, a * 1e6, a * 1e-6, torch.zeros(64, 32), torch.ones(64, 32), a[:, :1] @ a[:1])
    decades = torch.logspace(0, -12, 64)
    yield from (a * decades[:, None], a * decades[:32], a.clamp(-1, 1) * 3e38, a * 1e-44)
    yield torch.stack((a, torch.zeros_like(a)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_never_above_one_and_gradients_finite(off_the_host, dtype):
    for a in extremes():
        a = a.to(dtype).detach().clone().requires_grad_()
        q = orthonormal_basis(a)
        assert singular_values(q.detach()).max() < 1 + 3e-7
        q.sin().sum().backward()
        assert a.grad is not None
        assert a.grad.isfinite().all()


def test_rows_over_twelve_decades_are_orthonormal():
    a = torch.randn(64, 32, generator=torch.Generator().manual_seed(4))
    q, _ = one_route_basis(a * torch.logspace(0, -12, 64)[:, None])
    assert (singular_values(q) - 1).abs().max() < 3e-7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (2, 5, 3)])
def test_the_same_gradient(monkeypatch, size, dtype):
    generator = torch.Generator().manual_seed(5)
    a = torch.randn(*size, dtype=dtype, generator=generator).requires_grad_()
    out = torch.randn(*size, dtype=dtype, generator=generator)
    (expected,) = torch.autograd.grad((orthonormal_basis(a) * out).sum(), a)
    monkeypatch.setattr(one_route, "HOST_DEVICES", ())
    assert takes_one_route(a)
    (found,) = torch.autograd.grad((orthonormal_basis(a) * out).sum(), a)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    if dtype == torch.float64 and a.numel() < 50:
        assert torch.autograd.gradcheck(orthonormal_basis, a)


def test_batches_and_vmap(off_the_host):
    a = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    each = torch.stack([orthonormal_basis(x) for x in a])
    assert torch.allclose(orthonormal_basis(a), each, atol=1e-12)
    assert torch.allclose(torch.func.vmap(orthonormal_basis)(a), each, atol=1e-12)
    jacobian = torch.func.vmap(torch.func.jacrev(orthonormal_basis))(a)
    assert torch.allclose(jacobian[1], torch.func.jacrev(orthonormal_basis)(a[1]), atol=1e-12)
    assert orthonormal_basis(a[:, :, :0]).shape == (3, 6, 0)


def test_only_in_training_off_the_host(monkeypatch):
    a = torch.zeros(6, 3, requires_grad=True)
    assert not takes_one_route(a)
    monkeypatch.setattr(one_route, "HOST_DEVICES", ("meta",))
    assert takes_one_route(a)
    assert not takes_one_route(a.detach())
    assert not takes_one_route(a.to("meta"))
    assert singular_values(orthonormal_basis(a).detach()).max() == 0  # no full rank: no basis yet
    with torch.no_grad():
        assert not takes_one_route(a)
        assert (singular_values(orthonormal_basis(a)) - 1).abs().max() < 1e-6


def test_models_without_full_rank_are_exact_where_it_counts(off_the_host):
    layer = taut.nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        next(layer.parameters())[:, 2:] = 0
    x = torch.randn(5, 6)
    assert layer(x).norm() < x.norm() * (1 - 1e-3)
    frozen = taut.freeze(layer)
    with torch.no_grad():
        for exact in (layer, frozen):
            assert torch.allclose(exact(x).norm(dim=1), x.norm(dim=1))
        assert torch.equal(frozen(x), layer(x))
    taut.retract_(layer)  # the raw tensor is a basis from now on
    assert torch.allclose(layer(x), frozen(x), atol=1e-6)


def step(model, x):
    loss = model(x).square().sum()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def nets(name):
    torch.manual_seed(0)
    if name in ("Small", "Large"):
        return getattr(taut.models, name)().build((1, 9, 9), 4), (1, 9, 9)
    if name == "wide":  # applies its factors
        return nn.Sequential(taut.nn.Conv2d(64, 64, 3), taut.nn.MaxMin()), (64, 8, 8)
    if name == "SOC":
        return nn.Sequential(taut.nn.SOC2d(4, 4, 3), taut.nn.MaxMin()), (4, 8, 8)
    if name == "ShiftMix":
        return taut.nn.ShiftMix2d(8, 8), (8, 6, 6)
    if name == "SLL residual":
        return taut.nn.PotentialResidual2d(4, 4, 3, parametrization=taut.SLL), (4, 6, 6)
    method = getattr(taut, name)
    if method.matrices_only:
        return taut.nn.Linear(8, 6, parametrization=method), (8,)
    conv = taut.nn.Conv2d(8, 8, 3, parametrization=method)
    return nn.Sequential(conv, taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(288, 4)), (8, 6, 6)


NETS = ["Small", "Large", "wide", "SOC", "ShiftMix", "SLL residual", *METHODS]


@pytest.mark.parametrize("name", NETS)
def test_a_training_step_waits_for_nothing(monkeypatch, name):
    model, shape = nets(name)
    x = torch.rand(3, *shape)
    expected = step(model, x)
    model.zero_grad()
    monkeypatch.setattr(one_route, "HOST_DEVICES", ())
    with Refusal():
        found = step(model, x)
        model.zero_grad()
        with taut.batched(model):
            step(model, x)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


def test_the_refusal_sees_what_waits(off_the_host):
    model, shape = nets("Small")
    with torch.no_grad(), Refusal(), pytest.raises(AssertionError, match="orthonormal_basis waits"):
        model(torch.rand(1, *shape))


def test_ranks_of_each_step_come_from_the_device(off_the_host):
    method = taut.SCFac(8, 8, (3, 3))
    method.step_rank = (1, 2, 3, 4)[: len(method.ranks)]
    with Refusal():
        method.weight().sum().backward()


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="since torch 2.9")
def test_operations_that_wait_say_so():
    for name in ("orthonormal_basis", "orthonormal_factors"):
        assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.taut, name).default.tags


COMPILED = """
import sys, torch, taut
from taut.linalg import one_route
one_route.HOST_DEVICES = ()
torch.manual_seed(0)
model, x = taut.nn.Conv2d(4, 4, 2), torch.rand(2, 4, 3, 3)
names = []
def record(graph, inputs):
    names.extend(str(node.target) for node in graph.graph.nodes)
    return graph.forward
from torch._dynamo.backends.common import aot_autograd
backend = aot_autograd(fw_compiler=record) if sys.argv[1] == "record" else "inductor"
compiled = torch.compile(model, fullgraph=True, backend=backend)
raws = list(model.parameters())
weights = torch.rand_like(model(x))  # the sum of squares would not change with the kernel
grads = [torch.autograd.grad((f(x) * weights).sum(), raws) for f in (compiled, model)]
assert all((a - b).abs().max() <= 1e-4 * b.abs().max() for a, b in zip(*grads, strict=True))
if names:
    assert any("cholesky_ex" in name for name in names)
    assert not [name for name in names if "orthonormal" in name]
"""


@pytest.mark.parametrize("backend", ["record", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_without_an_opaque_operation(backend):
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    command = [sys.executable, "-c", COMPILED, backend]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
