"""Faults measured in other libraries: each with the case that showed it, and every method in it.

Numbers are those of the norm that was measured there, or of what was reported.
"""

import pytest
import torch
from torch import nn

import taut
from oracles import dense_operator
from taut.parametrizations import AbstractSpectral, methods
from taut.program import lipschitz_bound

KERNELS = {name: cls for name, cls in methods().items() if not cls.matrices_only}
FINITE = {name: cls for name, cls in KERNELS.items() if not issubclass(cls, AbstractSpectral)}
PROMISED = {name: cls for name, cls in FINITE.items() if cls.guarantee != "none"}
F64 = torch.float64


def norms(layer: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return torch.linalg.svdvals(dense_operator(layer, shape))


def draw_(layer: nn.Module) -> None:
    with torch.no_grad():
        for name, raw in layer.named_parameters():
            if not name.endswith("bias"):
                raw.normal_()
    taut.after_step(layer, 1)


@pytest.mark.parametrize("name", PROMISED)
@pytest.mark.parametrize(("mode", "taps"), [("reflect", 3), ("replicate", 3), ("replicate", 5)])
def test_reflection_and_replication_keep_the_norm(name, mode, taps):
    """AOC with 5x5 kernels: 1.78 and 2.15; AOL with 3x3 kernels: 1.27."""
    layer = taut.nn.Conv2d(2, 2, taps, padding_mode=mode, parametrization=PROMISED[name], dtype=F64)
    draw_(layer)
    assert norms(layer, (2, 7, 7))[0] <= 1 + 1e-9


@pytest.mark.parametrize("name", PROMISED)
def test_a_stride_with_a_common_divisor_with_the_dilation(name):
    """torchlip with stride 2 and dilation 2: 1.5."""
    layer = taut.nn.Conv2d(4, 2, 3, 2, dilation=2, parametrization=PROMISED[name], dtype=F64)
    draw_(layer)
    assert norms(layer, (4, 8, 8))[0] <= 1 + 1e-9


@pytest.mark.parametrize("name", KERNELS)
def test_sizes_of_images_stay_and_may_change(name):
    """Cayley and Sandwich of 1LLC: 9x8 from 9x9; layers by FFT: one square size."""
    layer = taut.nn.Conv2d(2, 2, 3, parametrization=KERNELS[name])
    for size in ((9, 9), (6, 12)):
        assert layer(torch.randn(1, 2, *size)).shape == (1, 2, *size)
    sandwich = taut.nn.Sandwich2d(2, 2)
    assert sandwich(torch.randn(1, 2, 9, 9)).shape == (1, 2, 9, 9)


@pytest.mark.parametrize("name", KERNELS)
def test_parameters_are_all_there_before_the_first_forward(name):
    """The scale of Cayley's transform in 1LLC: made in the first forward, and never trained."""
    layer = taut.nn.Conv2d(2, 2, 3, parametrization=KERNELS[name])
    before = set(layer.state_dict())
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(1, 2, 6, 6)).square().sum().backward()
    assert set(layer.state_dict()) == before
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert {id(p) for p in layer.parameters()} == held


def test_bounds_see_what_a_power_iteration_does_not():
    """Of CPL, LiResNet, SOC and BRONet: estimates from below, here 0 from a constant image."""
    alternating = torch.zeros(2, 2, 3, dtype=F64)
    alternating[0, 0] = torch.tensor([1.0, -2.0, 1.0])
    assert nn.functional.conv1d(torch.ones(1, 2, 10, dtype=F64), alternating).norm() == 0
    potential = taut.nn.Conv1d(2, 2, 3, parametrization=taut.CPL, bias=False, dtype=F64)
    residual = taut.nn.Conv1d(2, 2, 3, parametrization=taut.LiRes, bias=False, dtype=F64)
    with torch.no_grad():
        potential.parametrization.get_parameter("raw_kernel").copy_(alternating)
        residual.parametrization.get_parameter("raw_kernel").copy_(-alternating)
    assert 0.5 < norms(potential, (2, 8))[0] <= 1 + 1e-9
    bound = float(lipschitz_bound(residual, (2, 8)))
    assert bound == pytest.approx(5.0) == float(norms(residual, (2, 8))[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_count_with_the_largest_norm(transposed):
    """orthogonium multiplied the norms of the groups: 0.077 for 5.66."""
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    layer = kind(3, 3, 1, groups=3, bias=False, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([5.66, 0.1, 0.136]).reshape(3, 1, 1))
    assert float(lipschitz_bound(layer, (3, 4))) == pytest.approx(5.66)


@pytest.mark.parametrize("name", KERNELS)
def test_evaluation_sees_the_weights_of_the_last_step(name):
    """BRO, BCOP and Sandwich elsewhere: stale weights in evaluation, outputs off by 2.6 to 5.8."""
    layer, x = taut.nn.Conv2d(4, 4, 3, parametrization=KERNELS[name]), torch.randn(2, 4, 6, 6)
    layer.eval()(x)
    draw_(layer)
    found = layer.eval()(x)
    fresh = taut.nn.Conv2d(4, 4, 3, parametrization=KERNELS[name])
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(found, fresh(x))
    assert torch.equal(found, layer.train()(x))


@pytest.mark.parametrize("name", KERNELS)
def test_autocast_leaves_kernels_their_precision(name):
    """1.0278 in bfloat16, where bases are computed in it; the rounding of outputs is 1.004."""
    layer = taut.nn.Conv2d(4, 4, 3, parametrization=KERNELS[name])
    expected = layer.kernel((6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        kernel = layer.kernel((6, 6))
    assert kernel.dtype == torch.float32
    assert torch.equal(kernel, expected)


@pytest.mark.parametrize("training", [False, True])
def test_series_are_1_lipschitz_fresh_and_far_in_both_modes(training):
    """SOC of 1LLC: 1.0032 in training, 1.148 for a fresh layer in evaluation."""
    for degree in (4, 8, 12):
        layer = taut.nn.SOC2d(3, 3, 3, degree=degree, dtype=F64).train(training)
        for _ in range(2):
            assert norms(layer, (3, 5, 5))[0] <= 1 + 1e-9
            draw_(layer)


def test_folds_have_no_factor():
    """orthogonium divides by the root of 2: singular values of 0.7071."""
    layer, x = taut.nn.HouseHolder(4, dtype=F64), torch.randn(4, dtype=F64)
    s = torch.linalg.svdvals(torch.autograd.functional.jacobian(lambda x: layer(x[None])[0], x))
    assert s == pytest.approx([1.0] * 4, abs=1e-9)
