"""SC-Fac: what its kernels are, which there are, and which are assigned."""

import itertools

import jaxtyping
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import taut
from oracles import dense_operator
from theory_oracles import random_factors

IDENTITY = torch.eye(4, dtype=torch.float64)


def step(projector: torch.Tensor, axis: int, axes: int, *, flipped: bool) -> torch.Tensor:
    """The kernel [P, I - P] along an axis, or [I - P, P]."""
    taps = [projector, IDENTITY - projector]
    kernel = torch.stack(taps[:: -1 if flipped else 1], -1)
    shape = [2 if i == axis else 1 for i in range(axes)]
    return kernel.reshape(4, 4, *shape)


def test_kernel_is_the_product_of_its_steps_axis_by_axis():
    module = taut.SCFac(4, 4, (3, 4), dtype=torch.float64)
    p = [raw @ raw.mT for raw in module.raw_projectors.detach()]  # fresh: orthonormal already
    axes, flipped = [0, 0, 1, 1, 1], [False, True, False, True, False]
    factors = [step(*each, axes=2, flipped=f) for *each, f in zip(p, axes, flipped, strict=True)]
    factors = [module.raw_matrix.detach().mT[:, :, None, None], *factors]
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    expected = x
    for factor in reversed(factors):  # the last factor sees the input first
        expected = F.conv2d(expected, factor)
    torch.testing.assert_close(F.conv2d(x, module.weight()), expected)


def test_a_matrix_between_two_axes_changes_no_kernel():
    """H S M Q = (H M) (M' S M) Q, so that the paper's matrix M adds nothing."""
    module, turn = taut.SCFac(3, 4, (3, 3), dtype=torch.float64), taut.Orthogonal(4, 4)
    m = turn.double().weight().detach()
    first, second = (taut.SCFac(4, 4, size, dtype=torch.float64) for size in ((3, 1), (1, 3)))
    with torch.no_grad():
        first.raw_matrix.copy_(IDENTITY)
        second.raw_matrix.copy_(m.mT)  # M before its steps
        module.raw_matrix.copy_(m.mT @ module.raw_matrix)
        module.raw_projectors[:2] = m.mT @ first.raw_projectors
        module.raw_projectors[2:] = second.raw_projectors
    h = (m @ module.raw_matrix.detach()).mT[:, :, None, None]
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    between = F.conv2d(F.conv2d(F.conv2d(x, second.weight()), first.weight()), h)
    # More outputs than inputs: the kernel is transposed tap by tap.
    torch.testing.assert_close(F.conv2d(x, module.weight().transpose(0, 1)), between)


RANKS = list(itertools.product(range(4), repeat=2))


@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_ranks_say_in_which_component_a_kernel_is(ranks):
    """In one axis the determinant winds once round the origin for each column of I - P."""
    layer = taut.nn.Conv1d(
        3, 3, 3, parametrization=lambda *a, **k: taut.SCFac(*a, rank=ranks, **k), bias=False
    ).double()
    s = torch.linalg.svdvals(dense_operator(layer, (3, 5)))
    torch.testing.assert_close(s, torch.ones_like(s), rtol=0, atol=1e-9)
    symbol = torch.fft.fft(layer.weight.detach(), n=64).permute(2, 0, 1)
    angle = np.unwrap(torch.linalg.det(symbol).angle().numpy())
    turns = -(angle[-1] - angle[0]) / (2 * np.pi) * 64 / 63
    assert round(turns) == (3 - ranks[0]) + ranks[1]  # the second step is reversed
    layer.weight.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_every_orthogonal_kernel_of_one_axis_is_assigned(ranks):
    kernel = random_factors(3, (3,), 0, ranks=ranks).kernel()
    module = taut.SCFac(3, 3, (3,), rank=(ranks[0], 3 - ranks[1]), dtype=torch.float64)
    module.assign_(kernel)
    torch.testing.assert_close(module.weight(), kernel, rtol=0, atol=1e-13)


# Channels in and out, taps, stride, groups, ranks.
ASSIGNED = [
    (4, 4, (), (), 1, None),
    (5, 5, (3, 3), (1, 1), 1, None),
    (3, 5, (3, 3), (1, 1), 1, (1, 2, 4, 0)),
    (6, 9, (3, 2), (1, 1), 3, 1),
    (3, 4, (3, 3), (2, 2), 1, None),
    (4, 20, (5, 4), (2, 2), 1, 7),
    (3, 4, (2, 3, 2), (1, 1, 1), 1, None),
]


@pytest.mark.parametrize("size", ASSIGNED, ids=str)
def test_kernels_are_assigned(size):
    inputs, outputs, taps, stride, groups, rank = size
    options = {"stride": stride, "groups": groups, "rank": rank, "dtype": torch.float64}
    one, other = (taut.SCFac(inputs, outputs, taps, **options) for _ in range(2))
    other.assign_(one.weight())
    torch.testing.assert_close(other.weight(), one.weight(), rtol=0, atol=1e-13)


def test_neither_family_contains_the_other():
    kernels = {cls: cls(4, 4, (3, 3), dtype=torch.float64) for cls in (taut.BCOP, taut.SCFac)}
    for cls, other in ((taut.BCOP, taut.SCFac), (taut.SCFac, taut.BCOP)):
        with pytest.raises(ValueError, match=f"`weight` must be one that {cls.__name__} can have"):
            kernels[cls].assign_(kernels[other].weight())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_layers_start_as_the_identity_if_asked(axes):
    module = taut.SCFac(5, 5, (3,) * axes, init="identity", dtype=torch.float64)
    expected = torch.zeros_like(module.weight())
    expected[(..., *[1] * axes)] = torch.eye(5)
    torch.testing.assert_close(module.weight(), expected)


@pytest.mark.parametrize("rank", [-1, 5, (1,), (1, 2, 3), 1.5, True, "1"])
def test_other_ranks_are_refused(rank, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=r"^`rank` must be .*; got .*\.$"):
        taut.SCFac(4, 4, (3,), rank=rank)


def test_ranks_of_numpy_are_ranks(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    module = taut.SCFac(4, 4, (3,), rank=(np.int64(1), np.int32(3)))
    assert module.ranks == (1, 3)
    assert module.raw_projectors.shape == (2, 4, 3)
