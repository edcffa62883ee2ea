"""Finite reflectors: their definition, their spectrum, and what applying them costs."""

import itertools
import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import taut
from oracles import dense_operator
from taut.linalg.windows import Windows


def thin_kernel(module: taut.FiniteReflector) -> torch.Tensor:
    r"""The kernel of :math:`V^\top`, (rank, c, *taps), by BCOP with the same raw tensors."""
    taps = tuple((k + 1) // 2 for k in module.kernel_size)
    thin = taut.BCOP(module.out_channels, module.rank, taps, dtype=torch.float64)
    names = {"raw_matrix": "raw_basis", "raw_projectors": "raw_inner_projectors"}
    state = module.state_dict()
    thin.load_state_dict({new: state[old] for new, old in names.items() if old in state})
    return thin.weight().detach()


@pytest.mark.parametrize("kernel_size", [(), (1,), (3,), (5,), (3, 3), (5, 3), (3, 1, 3)], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_kernel_is_the_delta_minus_twice_the_projection(kernel_size, rank):
    module = taut.FiniteReflector(4, 4, kernel_size, rank=rank, dtype=torch.float64)
    thin, expected = thin_kernel(module), torch.zeros(4, 4, *kernel_size, dtype=torch.float64)
    middle = tuple((k - 1) // 2 for k in kernel_size)
    expected[(..., *middle)] = torch.eye(4)
    taps = list(itertools.product(*(range(m + 1) for m in middle)))
    for t, u in itertools.product(taps, taps):
        place = tuple(m + b - a for m, a, b in zip(middle, t, u, strict=True))
        expected[(..., *place)] -= 2 * thin[(..., *t)].T @ thin[(..., *u)]
    torch.testing.assert_close(module.weight(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(5, 6), (2, 1), (3, 4)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_operator_is_a_reflection_of_its_rank_at_each_frequency(size, rank):
    layer = taut.nn.Conv2d(
        4, 4, (3, 5), bias=False,
        parametrization=lambda *a, **k: taut.FiniteReflector(*a, rank=rank, **k),
    ).double()  # fmt: skip
    dense = dense_operator(layer, (4, *size))
    torch.testing.assert_close(dense, dense.T, rtol=0, atol=1e-13)
    positions = math.prod(size)
    signs = torch.linalg.eigvalsh(dense)
    expected = torch.tensor([-1.0] * rank * positions + [1.0] * (4 - rank) * positions)
    torch.testing.assert_close(signs, expected.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "stride"),
    [(3, 5, 3, 1), (5, 3, 3, 1), (2, 2, 4, 1), (2, 3, 6, 2), (2, 9, 3, 2), (1, 3, 2, 3)],
)
def test_other_sizes_are_semi_orthogonal(inputs, outputs, size, stride):
    method = taut.FiniteReflector
    layer = taut.nn.Conv2d(
        inputs, outputs, size, stride, bias=False, parametrization=method, dtype=torch.float64
    )
    s = torch.linalg.svdvals(dense_operator(layer, (inputs, 4 * stride, 2 * stride)))
    torch.testing.assert_close(s, torch.ones_like(s), rtol=0, atol=1e-9)


def test_applied_it_takes_two_thin_convolutions():
    layer = taut.nn.Conv2d(128, 128, 3, parametrization=taut.FiniteReflector)
    x, n = torch.randn(8, 128, 8, 8), 8
    windows = Windows((1, 1), (1, 1), (1, 1))
    with FlopCounterMode(display=False) as counter:
        y = layer.parametrization.transform(x, None, windows)
    assert y is not None
    products = counter.flop_counts["Global"][torch.ops.aten.convolution] // 2
    assert products == 8 * 64 * 128 * 4 * (n * n + (n + 1) ** 2)  # V^T reads one position more
    expected = layer.double()(x.double()) - layer.bias[:, None, None]
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5)


def test_few_channels_and_evaluation_take_the_kernel():
    x, windows = torch.randn(8, 128, 8, 8), Windows((1, 1), (1, 1), (1, 1))
    narrow = taut.FiniteReflector(32, 32, (3, 3))
    assert narrow.transform(x[:, :32], None, windows) is None
    wide = taut.nn.Conv2d(128, 128, 3, parametrization=taut.FiniteReflector)
    with torch.no_grad():
        assert torch.equal(wide(x), taut.freeze(wide)(x))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
def test_gradients_are_finite_and_there(scale):
    module = taut.FiniteReflector(4, 6, (4, 3), stride=(2, 1))
    with torch.no_grad():
        for raw in module.parameters():
            raw.mul_(scale)
    module.weight().sum().backward()
    assert all(raw.grad.isfinite().all() for raw in module.parameters())


@pytest.mark.parametrize("rank", [0, -1, 5, 1.0, True, "2", (1, 2)])
def test_other_ranks_are_refused(rank, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=r"^`rank` must be .*; got .*\.$"):
        taut.FiniteReflector(4, 4, (3,), rank=rank)


def test_rank_is_half_of_the_channels_of_a_patch(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    assert taut.FiniteReflector(3, 5, (4, 4), stride=(2, 2)).rank == 6
    assert taut.FiniteReflector(1, 1, (1,)).rank == 1
    assert taut.FiniteReflector(8, 8, (3, 3), groups=2).rank == 2
    assert taut.FiniteReflector(4, 4, rank=np.int64(3)).raw_basis.shape == (4, 3)


def test_weights_are_not_assigned():
    module = taut.FiniteReflector(4, 4, (3,))
    with pytest.raises(ValueError, match="`weight` cannot be assigned: FiniteReflector makes it"):
        module.assign_(module.weight())
