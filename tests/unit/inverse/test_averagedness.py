"""Maps that are proved to be averaged are: pairs, Jacobians and dense matrices cannot break it."""

import copy
from fractions import Fraction
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

import taut
from oracles import dense_operator
from proven import assert_certified, assert_files_agree
from taut.inverse import (
    Denoiser,
    FixedNoise,
    averagedness,
    composed_averagedness,
    conv_net,
)
from taut.nn import Averaged, ConvexResidual, ReZeroResidual
from taut.program import UnprovenError

SHAPE = (2, 5, 4)


def net(**options):
    return conv_net(2, width=4, depth=3, **options)


def shorter():
    """Of a constant that is proved to be below 1."""
    return nn.Sequential(net(), taut.nn.Times(1 - 2.0**-20))


def drawn_residual():
    block = ReZeroResidual(shorter())
    nn.init.constant_(block.alpha, 0.7)
    return block


MAPS = {
    "averaged": lambda: Averaged(net()),
    "three quarters": lambda: Averaged(net(kernel_size=2), weight=0.75),
    "convex residual": lambda: ConvexResidual(shorter()),
    "rezero residual": drawn_residual,
    "at the level of the net": lambda: FixedNoise(Denoiser(net()), 0.1),
    "at a low level": lambda: FixedNoise(Denoiser(net()), 3e-3),
    "at a high level": lambda: FixedNoise(Denoiser(net(), sigma=0.7), 55.5),
    "not averaged": shorter,
}


@pytest.fixture(params=MAPS)
def mapped(request):
    torch.manual_seed(0)
    return MAPS[request.param]().double()


def excess(module, alpha, x, y):
    r"""|Dx - Dy|^2 + (1 - a)/a |(I-D)x - (I-D)y|^2 - |x - y|^2, over |x - y|^2."""
    moved, between = module(x) - module(y), x - y
    squares = [d.flatten(1).square().sum(1) for d in (moved, between - moved, between)]
    return (squares[0] + (1 - alpha) / alpha * squares[1]) / squares[2] - 1


def test_no_pair_breaks_the_inequality_of_averaged_maps(mapped):
    alpha = averagedness(mapped, SHAPE)
    x = torch.randn(32, *SHAPE, dtype=torch.float64)
    y = (
        x
        + torch.randn_like(x) * torch.logspace(-3, 1, 32, dtype=torch.float64)[:, None, None, None]
    )
    assert excess(mapped, alpha, x, y).max() <= 1e-9
    x, y = x.requires_grad_(), y.requires_grad_()
    optimiser = torch.optim.Adam((x, y), lr=0.03)
    for _ in range(15):
        optimiser.zero_grad()
        (-excess(mapped, alpha, x, y)).sum().backward()
        optimiser.step()
    assert excess(mapped, alpha, x, y).max() <= 1e-9


def test_jacobians_are_averaged(mapped):
    alpha = averagedness(mapped, SHAPE)
    for _ in range(2):
        x = torch.randn(SHAPE, dtype=torch.float64)
        matrix = torch.autograd.functional.jacobian(lambda x: mapped(x[None])[0].flatten(), x)
        matrix = matrix.flatten(1)
        unit = torch.eye(len(matrix), dtype=torch.float64)
        rest = torch.linalg.matrix_norm(matrix - (1 - alpha) * unit, 2)
        assert 0.9 * alpha <= rest <= alpha * (1 + 1e-9)  # the nets are nearly orthogonal
        if alpha <= 0.5:
            # Firmly nonexpansive, and so is I - D: the symmetric part is between J^T J and 1.
            symmetric = (matrix + matrix.T) / 2
            assert torch.linalg.eigvalsh(symmetric - matrix.T @ matrix).min() >= -1e-9
            assert torch.linalg.eigvalsh(unit - symmetric).min() >= -1e-9


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 1.0), (torch.float32, 1e6), (torch.float64, 1e-6)]
)
def test_the_weight_is_proved_exactly(dtype, scale):
    torch.manual_seed(0)
    block = Averaged(net()).to(dtype)
    with torch.no_grad():
        for raw in block.parameters():
            raw.copy_(scale * torch.randn_like(raw))
    assert averagedness(block, SHAPE) == 0.5
    assert averagedness(FixedNoise(Denoiser(block.f), 1 / 3), SHAPE) == 0.5
    assert float(taut.lipschitz_bound(block, SHAPE)) <= 1


class Plain(nn.Module):
    def __init__(self, function, *matrices):
        super().__init__()
        self.function: Any = function
        layers = [nn.Linear(6, 6, dtype=torch.float64) for _ in matrices]
        with torch.no_grad():
            for layer, matrix in zip(layers, matrices, strict=True):
                layer.weight.copy_(matrix)
        self.maps = nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.maps)


FUNCTIONS = {
    "a sum": lambda x, f, g: 0.5 * x + 0.2 * f(x) + 0.3 * g(x),
    "a difference": lambda x, f, g: x - 0.3 * (x - f(x)) - 0.1 * (x - g(x)),
    "nested": lambda x, f, g: (x + (f(x) + x + 2 * g(x)) / 2) / 4 + x / 8,
    "a negative share": lambda x, f, g: 0.2 * f(x) - 0.3 * x + 0.1 * g(x),
    "a constant": lambda x, f, g: 0.75 * (x + 1) + 0.25 * f(g(x)) - 3,
    "the input of a map": lambda x, f, g: f(0.9 * x) / 2 + 0.5 * g(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_never_below_that_of_the_dense_matrix(name):
    torch.manual_seed(0)
    for _ in range(3):
        matrices = [torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q for _ in range(2)]
        module = Plain(FUNCTIONS[name], *(m * 0.999 for m in matrices))
        alpha, matrix = averagedness(module, (6,)), dense_operator(module, (6,))
        unit = torch.eye(6, dtype=torch.float64)
        grid = torch.linspace(0.001, 1, 1000, dtype=torch.float64)
        norms = torch.linalg.matrix_norm(matrix - (1 - grid)[:, None, None] * unit, 2)
        least = float(grid[norms <= grid + 1e-12].min())
        assert alpha >= least - 1e-3
        assert torch.linalg.matrix_norm(matrix - (1 - alpha) * unit, 2) <= alpha + 1e-9


def doubled(x, times):
    for _ in range(times):
        x = x + x
    return x


@pytest.mark.parametrize(
    ("function", "alpha"),
    [
        (lambda x: x, 0.0),
        (lambda x: 1.5 * x - 0.5 * x, 0.0),
        (lambda x: doubled(x, 40) / 2**40, 0.0),
        (lambda x: x / 2 + doubled(x.relu(), 40) / 2**41, 0.5),
        (lambda x: -x, 1.0),
        (lambda x: x.relu(), 1.0),
        (lambda x: 0.5 * x + 0.5 * x.flip(1), 0.5),
        (lambda x: x - x.relu() / 4, None),  # 1/4-averaged, but not by this proof
        (lambda x: x - x.relu(), None),
        (lambda x: x - 2 * x.relu(), None),
        (lambda x: 0.5 * x + 0.5001 * x.flip(1), None),
        (lambda x: 2 * x, None),
        (lambda x: x * torch.linspace(0, 1, 6), 1.0),
        (lambda x: x.round(), None),
    ],
)
def test_plain_functions(function, alpha):
    module = Plain(function)
    if alpha is None:
        with pytest.raises(UnprovenError):
            averagedness(module, (6,))
    else:
        assert averagedness(module, (6,)) == alpha


def test_a_reflection_is_no_more_than_nonexpansive():
    # x - 2 C^T relu(C x): the share of the input is 1, but the whole is a reflection somewhere.
    layer = nn.Sequential(taut.nn.PotentialResidual2d(2), taut.nn.Times(0.999))
    assert averagedness(layer, SHAPE) == 1.0


def test_what_is_too_long_is_refused_with_the_numbers():
    with pytest.raises(UnprovenError, match=r"factor of 0\.5, the rest has the bound 0\.5049"):
        averagedness(Averaged(taut.nn.Linear(4, 4, gain=1.01)), (4,))
    with pytest.raises(ValueError, match="must keep the shape"):
        averagedness(taut.nn.Linear(4, 3), (4,))


def test_compositions():
    torch.manual_seed(0)
    for one, other in ((0.5, 0.5), (0.1, 0.9), (0.0, 0.3), (0.25, 0.0)):
        a, b = Fraction(one), Fraction(other)
        exact = (a + b - 2 * a * b) / (1 - a * b)
        found = composed_averagedness(one, other)
        assert exact <= found <= exact + Fraction(1, 2**50)
        for _ in range(20):
            turns = [torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q for _ in range(2)]
            unit = torch.eye(4, dtype=torch.float64)
            pair = [(1 - t) * unit + t * q for t, q in zip((one, other), turns, strict=True)]
            product = pair[0] @ pair[1]
            rest = torch.linalg.matrix_norm(product - (1 - found) * unit, 2)
            assert rest <= found + 1e-12
    assert composed_averagedness() == 0
    assert composed_averagedness(0.5, 1.0, 1.0) == 1
    three = composed_averagedness(0.5, 0.5, 0.5)
    assert three == pytest.approx(0.75, abs=1e-15)  # n / (n + 1) for n firm maps
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`alphas` must be numbers in"):
            composed_averagedness(0.5, wrong)


def test_certificates_and_files(tmp_path):
    torch.manual_seed(0)
    block = Averaged(net())
    assert assert_certified(block, SHAPE, tmp_path) <= 1 + 1e-6
    assert_files_agree(block, SHAPE, tmp_path)


def test_values_and_use_of_an_averaged_block():
    torch.manual_seed(0)
    block = Averaged(net(), weight=0.3).double()
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(block(x), 0.7 * x + 0.3 * (1 - 2.0**-13) * block.f(x))
    assert torch.equal(copy.deepcopy(block)(x), block(x))
    block(x).sum().backward()
    assert all(raw.grad is not None and raw.grad.isfinite().all() for raw in block.parameters())
    assert averagedness(block, SHAPE) == pytest.approx(0.3, abs=1e-15)
    assert "weight=0.3" in repr(block)


def test_wrong_arguments_of_an_averaged_block(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    block: Any = Averaged
    for weight in (0, 1, -0.5, float("nan"), "half", True):
        with pytest.raises(ValueError, match="`weight` must be above 0 and below 1; got"):
            block(nn.ReLU(), weight)
    with pytest.raises(ValueError, match=r"`f` must be a torch\.nn\.Module; got"):
        block(torch.relu)
    with pytest.raises(ValueError, match="`f` must keep the shape of its input"):
        Averaged(nn.Flatten())(torch.zeros(1, 2, 2))
