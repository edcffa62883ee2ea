"""OSSN, SVCM, RK-L2NE and BCOP-Fixed: what each does, and that none is taken at its word."""

import copy
import math
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from oracles import dense_operator
from taut.models import Small
from taut.models import kinds as models
from taut.parametrizations import AbstractParametrization, methods, read_weight

CONFIGURATIONS = [  # in, out, kernel size, stride, torus
    (3, 4, (3, 3), (1, 1), 5),
    (4, 2, (2, 3), (1, 1), 6),
    (2, 3, (4, 4), (2, 2), 4),
    (1, 3, (6, 2), (3, 1), 3),
    (3, 2, (4,), (2,), 7),
    (2, 2, (2, 2, 2), (1, 1, 1), 3),
    (5, 3, (), (), None),
    (3, 5, (), (), None),
]
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def operator(kernel: Tensor, stride: tuple[int, ...], torus: int | None) -> Tensor:
    """The dense matrix of a strided circular convolution with this kernel."""
    axes = len(stride)
    if not axes:
        return kernel
    size = tuple(torus * s for s in stride)

    def convolved(x: Tensor) -> Tensor:
        for axis, (n, k) in enumerate(zip(size, kernel.shape[2:], strict=True), 2):
            x = x.index_select(axis, torch.arange(n + k - 1) % n)
        return CONVOLUTIONS[axes](x, kernel, stride=stride)

    return dense_operator(convolved, (kernel.shape[1], *size))


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def plain_kernel(module: AbstractParametrization) -> Tensor:
    """The raw matrix as the kernel, by hand."""
    raw, inputs = module.raw_matrix.detach(), module.in_channels * math.prod(module.kernel_size)
    rows = raw if raw.shape == (module.out_channels, inputs) else raw.T
    return rows.reshape(module.out_channels, module.in_channels, *module.kernel_size)


def stirred(module: nn.Module, scale: float = 1.0) -> nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p.normal_().mul_(scale)
    return module


def made(cls, configuration, **options) -> AbstractParametrization:
    *sizes, stride, torus = configuration
    return cls(*sizes, stride=stride, torus=torus, dtype=torch.float64, **options)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# OSSN


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_ossn_estimates_from_below_and_converges_to_the_norm_of_the_operator(configuration):
    module = stirred(made(taut.OSSN, configuration, iterations=1))
    *_, stride, torus = configuration
    kernel = plain_kernel(module)
    true = norm(operator(kernel, stride, torus))
    for _ in range(500):
        taut.update_(module, 1)
        estimate = float((kernel * module.slope).sum())
        assert 0 < estimate <= true + 1e-12
    assert estimate == pytest.approx(true, rel=1e-4)
    assert norm(operator(module.weight().detach(), stride, torus)) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ossn_leaves_a_frequency_that_is_no_longer_the_largest(dtype):
    """Iterated alone, a vector whose positions are all alike stays so to the last bit."""
    module = taut.OSSN(1, 1, (2, 2), iterations=50, dtype=dtype)
    kernels = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[2.0, -2.0], [-2.0, 2.5]]])
    for step, kernel in enumerate(kernels):  # largest at frequency 0, and at the highest one
        module.raw_matrix.data.copy_(kernel.reshape(4, 1))
        for _ in range(5):
            taut.update_(module, step)
        estimate = float((plain_kernel(module) * module.slope).sum())
        assert estimate == pytest.approx(float(kernel.abs().sum()), rel=1e-5)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_ossn_leaves_kernels_of_norm_below_1_alone(configuration):
    module = stirred(made(taut.OSSN, configuration), scale=1e-3)
    taut.update_(module, 1)
    assert torch.equal(module.weight(), plain_kernel(module))


@pytest.mark.parametrize("configuration", CONFIGURATIONS[::2])
def test_gradient_of_ossn_is_that_of_division_by_the_true_norm(configuration):
    module = stirred(made(taut.OSSN, configuration, iterations=3000))
    *_, stride, torus = configuration
    taut.update_(module, 1)
    kernel = plain_kernel(module).requires_grad_()
    weights = torch.randn_like(kernel)
    (module.weight() * weights).sum().backward()
    raw = module.raw_matrix.grad
    found = raw.reshape(-1) if raw.shape[0] == module.out_channels else raw.T.reshape(-1)
    # The operator is linear in the kernel: its matrix by the kernel's unit vectors.
    units = torch.eye(kernel.numel(), dtype=torch.float64).reshape(-1, *kernel.shape)
    basis = torch.stack([operator(unit, stride, torus) for unit in units])
    true = torch.linalg.matrix_norm((kernel.reshape(-1, 1, 1) * basis).sum(0), 2)
    (expected,) = torch.autograd.grad((kernel / true * weights).sum(), kernel)
    assert torch.allclose(found, expected.reshape(-1), atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("scale", [0.0, 1e-36, 1e36])
@pytest.mark.parametrize("size", [(), (3, 3)])
def test_ossn_goes_on_after_any_raw_tensor(scale, size):
    module = stirred(taut.OSSN(3, 4, size), scale)
    taut.update_(module, 1)
    assert module.weight().isfinite().all()
    stirred(module)
    for _ in range(20):
        taut.update_(module, 1)
    estimate = float((plain_kernel(module) * module.slope).sum())
    assert module.direction.norm() == pytest.approx(1, rel=1e-5)
    assert estimate == pytest.approx(
        norm(operator(plain_kernel(module).double(), (1,) * len(size), 12)), rel=0.05
    )


def test_ossn_survives_a_raw_tensor_that_was_not_finite_for_a_while():
    module = taut.OSSN(3, 4, (3, 3))
    with torch.no_grad():
        kept = module.raw_matrix.clone()
        module.raw_matrix[0, 0] = math.nan
        taut.update_(module, 1)
        module.raw_matrix.copy_(kept)
    taut.update_(module, 2)
    assert module.weight().isfinite().all()


def test_ossn_with_one_iteration_is_bounded_above_1_and_certified_with_that_bound():
    """The released code called such layers 1-Lipschitz."""
    layer = taut.nn.Conv2d(1, 8, 3, parametrization=partial(taut.OSSN, iterations=1))
    model = nn.Sequential(layer, taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(8 * 64, 3))
    stirred(layer.parametrization)
    taut.update_(model, 1)
    bound = float(taut.lipschitz_bound(model, (1, 8, 8)))
    assert bound > 1.05
    assert bound * (1 + 1e-6) >= norm(dense_operator(layer.double(), (1, 8, 8)))
    check_certificate_divides(model.float(), bound)
    for _ in range(300):
        taut.update_(model, 1)
    assert float(taut.lipschitz_bound(layer, (1, 12, 12))) == pytest.approx(1, abs=1e-3)


def check_certificate_divides(model: nn.Module, bound: float) -> None:
    images = torch.rand(20, 1, 8, 8)
    logits = model(images).detach().double()
    labels = logits.argmax(1)
    top = logits.topk(2).values
    radius = (top[:, 0] - top[:, 1]) / (math.sqrt(2) * bound)
    found = taut.certify(model, images, labels, (0.1,), arithmetic="real")
    assert float(found.bound) == pytest.approx(bound)
    assert torch.allclose(torch.as_tensor(found.radius).double(), radius, atol=1e-6)


# SVCM


def clipped_and_cut(kernel: np.ndarray, stride: tuple[int, ...], torus: int) -> np.ndarray:
    """One round by singular value decompositions of the dense operator itself."""
    u, s, v = np.linalg.svd(operator(torch.as_tensor(kernel), stride, torus).numpy())
    count = len(s)
    clipped = (u[:, :count] * np.minimum(s, 1)) @ v[:count]
    # The first output reads taps at the first positions of the torus.
    size = tuple(torus * s for s in stride)
    rows = clipped.reshape(kernel.shape[0], *(torus,) * len(stride), kernel.shape[1], *size)
    first = rows[(slice(None), *(0,) * len(stride))]
    return first[(..., *(slice(k) for k in kernel.shape[2:]))]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_svcm_projects_as_svds_of_the_dense_operator_do(configuration):
    module = stirred(made(taut.SVCM, configuration, rounds=3))
    *_, stride, torus = configuration
    kernel = plain_kernel(module).clone().numpy()
    assert norm(operator(module.weight().detach(), stride, torus)) > 1.2
    module.project_()
    if not stride:
        u, s, v = np.linalg.svd(kernel, full_matrices=False)
        expected = (u * np.minimum(s, 1)) @ v
    else:
        expected = kernel
        for _ in range(3):
            expected = clipped_and_cut(expected, stride, torus)
    assert np.allclose(plain_kernel(module).numpy(), expected, atol=1e-10)


def test_svcm_between_projections_is_far_above_1_and_after_them_a_little():
    """What is certified is the weight as it is, not as it was meant."""
    layer = taut.nn.Conv2d(1, 8, 3, parametrization=partial(taut.SVCM, rounds=1))
    model = nn.Sequential(layer, taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(8 * 64, 3))
    fresh = float(taut.lipschitz_bound(model, (1, 8, 8)))
    assert fresh <= 1 + 1e-6
    stirred(layer.parametrization)
    bounds = [float(taut.lipschitz_bound(model, (1, 8, 8)))]
    check_certificate_divides(model, bounds[0])
    for _ in range(50):
        layer.parametrization.project_()
        bounds.append(float(taut.lipschitz_bound(model, (1, 8, 8))))
    check_certificate_divides(model, bounds[-1])
    assert bounds[0] > 5
    assert bounds[0] > bounds[1] > bounds[10] > bounds[50] > 1
    assert bounds[1] > 1.1
    assert bounds[50] < 1.02
    assert all(b >= norm(dense_operator(layer.double(), (1, 8, 8))) for b in bounds)


def test_svcm_leaves_alone_what_is_within_its_constraint():
    module = taut.SVCM(3, 4, (3, 3))
    before = module.raw_matrix.clone()
    module.project_()
    assert torch.equal(module.raw_matrix, before)


def test_svcm_projects_when_it_is_its_turn():
    module = stirred(taut.SVCM(3, 3, (3, 3), every=7, rounds=2))
    for step in range(1, 15):
        before = module.raw_matrix.clone()
        taut.update_(module, step)
        assert torch.equal(module.raw_matrix, before) == (step % 7 != 0)
        stirred(module)


def test_projected_is_a_copy_and_moves_svcm_alone():
    model = nn.Sequential(*(taut.nn.Linear(4, 4, parametrization=m) for m in methods().values()))
    stirred(model)
    taut.update_(model, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    copied = taut.projected(model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    moved = {
        k.split(".")[0] for k, v in copied.state_dict().items() if not torch.equal(before[k], v)
    }
    assert moved == {str(list(methods()).index("SVCM"))}
    assert copied.training == model.training


def test_svcm_refuses_to_project_what_is_not_finite():
    module = taut.SVCM(2, 2)
    module.raw_matrix.data[0, 0] = math.inf
    with pytest.raises(ValueError, match="`raw_matrix` must be finite to be projected"):
        taut.projected(module)


# RK-L2NE


def test_rkl2ne_is_its_formula_written_out():
    module = stirred(taut.RKL2NE(2, 3, (4, 2), stride=(2, 1), dtype=torch.float64))
    rows = plain_kernel(module).reshape(3, -1)

    def largest_row(m: Tensor) -> float:
        return max(sum(abs(float(x)) for x in row) for row in m)

    square = min(largest_row(rows @ rows.T), largest_row(rows.T @ rows))
    overlap = math.sqrt((4 / 2) * (2 / 1))
    expected = plain_kernel(module) / math.sqrt(square) / overlap
    assert torch.allclose(module.weight(), expected, rtol=1e-12)
    assert torch.linalg.svdvals(rows)[0] < math.sqrt(square)


@pytest.mark.parametrize("scale", [0.0, 1e-36, 1e-3, 1e36])
def test_rkl2ne_and_its_gradient_are_finite_for_any_raw_tensor(scale):
    module = stirred(taut.RKL2NE(3, 4, (3, 3)), scale)
    unscaled = copy.deepcopy(module)
    (module.weight() * torch.arange(4.0)[:, None, None, None]).sum().backward()
    assert module.raw_matrix.grad.isfinite().all()
    if scale:
        unscaled.raw_matrix.data /= scale
        assert torch.allclose(module.weight(), unscaled.weight(), rtol=1e-4, atol=1e-7)


# BCOP-Fixed


def test_bcop_fixed_is_the_kernel_of_a_fresh_bcop():
    torch.manual_seed(3)
    expected = taut.BCOP(4, 6, (3, 3)).weight()
    torch.manual_seed(3)
    assert torch.equal(taut.BCOPFixed(4, 6, (3, 3)).weight(), expected)


def test_bcop_fixed_freezes_convolutions_while_all_else_trains():
    model = Small().build((1, 8, 8), 3, parametrization=taut.BCOPFixed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for step in range(1, 3):
        optimiser.zero_grad()
        model(torch.rand(5, 1, 8, 8)).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        taut.update_(model, step)
    after = model.state_dict()
    still = {k for k in before if torch.equal(before[k], after[k])}
    assert still == {"conv1.parametrization.kernel", "conv2.parametrization.kernel"}
    taut.retract_(model)
    assert torch.equal(model.conv1.parametrization.kernel, before["conv1.parametrization.kernel"])


# All four: state


NEW = ["OSSN", "SVCM", "RKL2NE", "BCOPFixed"]


def net(name: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    kind = methods()[name]
    layers = [taut.nn.Conv2d(1, 4, 3, parametrization=kind, dtype=dtype), taut.nn.MaxMin()]
    layers += [taut.nn.Conv2d(4, 4, 4, 2, parametrization=kind, dtype=dtype), taut.nn.MaxMin()]
    dense = taut.nn.Linear(4 * 9, 3, parametrization=kind, dtype=dtype)
    return nn.Sequential(*layers, nn.Flatten(), dense)


def trained(model: nn.Module, steps: int = 5) -> nn.Module:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    dtype = next(model.parameters()).dtype
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        (model(torch.rand(8, 1, 6, 6, dtype=dtype)) - 1).square().sum().backward()
        optimiser.step()
        taut.update_(model, step)
    return model


@pytest.mark.parametrize("name", NEW)
def test_forward_moves_nothing_and_eval_is_train(name):
    model, x = trained(net(name)), torch.rand(2, 1, 6, 6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    outputs = [model.train()(x), model(x), model.eval()(x), model(x)]
    assert all(torch.equal(outputs[0], y) for y in outputs)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("name", NEW)
def test_copies_and_checkpoints_are_the_model_and_train_as_it_does(name):
    model, x = trained(net(name)), torch.rand(2, 1, 6, 6)
    fresh = net(name)
    fresh.load_state_dict(model.state_dict())
    others = [fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    assert all(torch.equal(model(x), other(x)) for other in others)
    outputs = []
    for each in (model, *others):
        torch.manual_seed(1)
        outputs.append(trained(each)(x))
    assert all(torch.equal(outputs[0], y) for y in outputs)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_proved_bound_covers_the_model_as_trained(name, dtype):
    """Whatever the guarantee: the Jacobian of the model, and the operator of each layer."""
    model = trained(net(name, dtype), 30)
    bound = float(taut.lipschitz_bound(model, (1, 6, 6)))
    if methods()[name].guarantee != "none":
        assert bound <= 1 + 1e-5
    model = model.double()
    layers = [norm(dense_operator(model[0], (1, 6, 6))), norm(dense_operator(model[2], (4, 6, 6)))]
    layers.append(norm(model[5].weight.detach()))
    assert math.prod(layers) <= bound * (1 + 1e-6)
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(3, 36)
    assert norm(jacobian) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("name", NEW)
def test_cached_notices_updates(name):
    model = trained(net(name))
    with torch.no_grad(), taut.cached():
        first = read_weight(model[0].parametrization)
        assert read_weight(model[0].parametrization) is first
        stirred(model)
        taut.update_(model, 100)
        found = read_weight(model[0].parametrization)
        assert torch.equal(found, model[0].parametrization.weight())


@pytest.mark.parametrize("name", NEW)
def test_retraction_and_batches_of_bases_leave_them_alone(name):
    model, x = trained(net(name)), torch.rand(2, 1, 6, 6)
    expected = model(x)
    taut.retract_(model)
    with taut.batched(nn.Sequential(model, copy.deepcopy(model))):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", NEW)
def test_weights_and_updates_keep_their_precision_under_autocast(name):
    model = trained(net(name))
    twin = copy.deepcopy(model)
    taut.update_(twin, 100)
    with torch.autocast("cpu", torch.bfloat16):
        taut.update_(model, 100)
        weights = [layer.weight for layer in (model[0], model[2], model[5])]
        assert model(torch.rand(2, 1, 6, 6)).dtype == torch.bfloat16
    expected = [layer.weight for layer in (twin[0], twin[2], twin[5])]
    assert all(map(torch.equal, weights, expected))


@pytest.mark.parametrize("name", NEW)
def test_frozen_model_is_the_same_function(name):
    model, x = trained(net(name)), torch.rand(2, 1, 6, 6)
    frozen = taut.freeze(model)
    assert torch.allclose(frozen(x), model(x), atol=1e-6)
    bounds = [float(taut.lipschitz_bound(m, (1, 6, 6))) for m in (frozen, model)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-6)


COMPILED = """
import torch, taut
kinds = [taut.parametrizations.methods()[name] for name in {names}]
layers = [taut.nn.Conv2d(2, 2, 3, parametrization=kind) for kind in kinds]
dense = [taut.nn.Linear(32, 32, parametrization=kind) for kind in kinds]
model = torch.nn.Sequential(*layers, torch.nn.Flatten(), *dense)
compiled, x = torch.compile(model, fullgraph=True, backend="aot_eager"), torch.rand(2, 2, 4, 4)
raws = list(model.parameters())
for step in (100, 200):
    grads = [torch.autograd.grad(f(x).square().sum(), raws) for f in (compiled, model)]
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(*grads, strict=True))
    with torch.no_grad():
        for raw in raws:
            raw += 0.1 * torch.randn_like(raw)
    taut.update_(model, step)
"""


@pytest.mark.slow
def test_compiled_in_one_graph_that_follows_updates():
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    run = [sys.executable, "-c", COMPILED.format(names=NEW)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        (name, architecture)
        for name, kind in methods().items()
        for architecture in ("small", "large", "fc3", "wide")
        if (architecture != "fc3" and not kind.matrices_only and kind is not taut.ECO)
        or name in ("OSSN", "BCOPFixed")
    ],
)
def test_every_method_makes_every_architecture(name, architecture):
    model = models()[architecture]().build((1, 4, 4), 3, parametrization=methods()[name])
    model(torch.rand(2, 1, 4, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    orthogonal = ("BCOP", "RKO", "BCOPFixed", "SCFac", "FiniteReflector")
    dense = "Orthogonal" if name in orthogonal else name
    kinds = [m for m in model.modules() if isinstance(m, AbstractParametrization)]
    expected = {methods()[name], methods()[dense]} if architecture != "fc3" else {methods()[dense]}
    assert {type(kind) for kind in kinds} == expected


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (taut.OSSN, {"iterations": 0}, "`iterations` must be a positive integer; got 0"),
        (taut.OSSN, {"torus": -1}, "`torus` must be a positive integer; got -1"),
        (taut.SVCM, {"every": 0}, "`every` must be a positive integer; got 0"),
        (taut.SVCM, {"rounds": True}, "`rounds` must be a positive integer; got True"),
        (taut.OSSN, {"kernel_size": (2, 2, 2, 2)}, "`kernel_size` must have at most 3 axes"),
    ],
)
def test_wrong_options_are_refused_by_name(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(3, 3, **{"kernel_size": (3, 3), **options})


def test_a_step_is_counted_from_nothing():
    with pytest.raises(ValueError, match="`step` must be an integer >= 0; got -1"):
        taut.update_(nn.Linear(1, 1), -1)


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(4, 4, ()), (2, 8, (2, 2)), (3, 5, ())])
def test_svcm_projects_an_orthogonal_kernel_onto_itself(inputs, outputs, size):
    """Square ones, too: once they came out transposed, and the model was another one."""
    method = taut.SVCM(inputs, outputs, size, stride=size, dtype=torch.float64)
    nn.init.orthogonal_(method.raw_matrix)
    before = method.weight()
    method.project_()
    torch.testing.assert_close(method.weight(), before)
