"""Invertible resampling: permutations in the order of torch, in one to three dimensions."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import taut
from oracles import dense_operator
from proven import assert_certified, assert_files_agree

KINDS = {
    1: (taut.nn.InvertibleDownsample1d, taut.nn.InvertibleUpsample1d),
    2: (taut.nn.InvertibleDownsample2d, taut.nn.InvertibleUpsample2d),
    3: (taut.nn.InvertibleDownsample3d, taut.nn.InvertibleUpsample3d),
}
CASES = [  # axes, factor, shape of one input
    (1, 3, (2, 6)),
    (1, (1,), (1, 5)),
    (2, 2, (2, 4, 6)),
    (2, (1, 3), (3, 5, 6)),
    (2, (4, 2), (1, 8, 2)),
    (3, 2, (1, 2, 4, 2)),
    (3, (1, 2, 3), (2, 3, 2, 3)),
]


def blocks(x, factor):
    """Entry by entry: channel c, place i of a block, in the order c, i."""
    axes = len(factor)
    lead = x.reshape(-1, *x.shape[-axes - 1 :])
    channels = [
        lead[(slice(None), c, *(slice(i, None, f) for i, f in zip(place, factor, strict=True)))]
        for c in range(lead.shape[1])
        for place in torch.cartesian_prod(*(torch.arange(f) for f in factor))
        .reshape(-1, axes)
        .tolist()
    ]
    return torch.stack(channels, 1).reshape(*x.shape[: -axes - 1], -1, *channels[0].shape[1:])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_become_channels_in_the_order_of_torch_and_back(case):
    axes, factor, shape = case
    down, up = (kind(factor) for kind in KINDS[axes])
    for lead in ((), (2,)):
        x = torch.randn(*lead, *shape)
        y = down(x)
        assert torch.equal(y, blocks(x, down.factor))
        assert torch.equal(up(y), x)
    if axes == 2 and isinstance(factor, int):
        assert torch.equal(y, nn.PixelUnshuffle(factor)(x))
    matrix = dense_operator(down, shape)
    assert set(matrix.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64))
    assert torch.equal(matrix.T, dense_operator(up, tuple(y.shape[1:])))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounds_spectra_and_gradients(case):
    axes, factor, shape = case
    down, up = (kind(factor) for kind in KINDS[axes])
    small = tuple(down(torch.zeros(1, *shape)).shape[1:])
    for layer, size in ((down, shape), (up, small)):
        assert float(taut.lipschitz_bound(layer, size)) == 1.0
        assert torch.equal(
            taut.singular_values(layer, size), torch.ones(math.prod(shape), dtype=torch.float64)
        )
        x = torch.randn(1, *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[6]], ids=str)
def test_certificates_and_files(case, tmp_path):
    axes, factor, shape = case
    down, up = (kind(factor) for kind in KINDS[axes])
    small = tuple(down(torch.zeros(1, *shape)).shape[1:])
    for layer, size in ((down, shape), (up, small)):
        assert_files_agree(layer, size, tmp_path)
        assert assert_certified(layer, size, tmp_path) <= 1 + 3e-6


def test_sizes_that_no_factor_divides_are_named():
    for run, match in (
        (lambda: KINDS[2][0](2)(torch.zeros(1, 1, 4, 5)), r"got factor=2, size \(4, 5\)"),
        (lambda: KINDS[1][0](3)(torch.zeros(2, 4)), r"got factor=3, size \(4,\)"),
        (lambda: KINDS[2][1]((2, 3))(torch.zeros(1, 9, 1, 1)), r"factor=\(2, 3\), 9 channels"),
        (lambda: KINDS[2][0](0), "`factor` must be a positive integer or a tuple of 2; got 0"),
        (lambda: KINDS[3][1]((1, 2)), "`factor` must be a positive integer or a tuple of 3"),
        (lambda: KINDS[3][0](1)(torch.zeros(2, 2)), r"`input` must have shape \(c, d, h, w\)"),
    ):
        with pytest.raises(ValueError, match=match):
            run()


COMPILED = """
import torch
from taut import nn
for axes in (1, 2, 3):
    down = getattr(nn, f"InvertibleDownsample{axes}d")
    up = getattr(nn, f"InvertibleUpsample{axes}d")
    x, factor = torch.randn(2, 3, *[6] * axes), (1, 2, 3)[:axes]
    for tool in (torch.jit.script, torch.fx.symbolic_trace):
        y = tool(down(factor))(x)
        assert torch.equal(y, down(factor)(x)) and torch.equal(tool(up(factor))(y), x)
print("equal")
"""


def test_they_pass_through_the_compilers_of_torch():
    # In a process of its own: the checks of shapes in the tests wrap what these tools read.
    command = [sys.executable, "-W", "ignore", "-c", COMPILED]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "equal\n", result.stderr[-1000:]


@pytest.mark.parametrize(("axes", "factor", "shape"), CASES)
def test_a_batch_without_images_has_the_shape_of_the_blocks(axes, factor, shape):
    down, up = (kind(factor) for kind in KINDS[axes])
    blocks = down(torch.zeros(1, *shape))[:0]
    assert down(torch.zeros(0, *shape)).shape == blocks.shape
    assert up(blocks).shape == (0, *shape)


def test_strided_layers_take_a_batch_without_images():
    for make in (taut.nn.SOC2d, taut.nn.Conv2d):
        x = torch.zeros(0, 3, 8, 8, requires_grad=True)
        y = make(3, 4, 3, 2)(x)
        assert y.shape == (0, 4, 4, 4)
        y.sum().backward()
        assert x.grad is not None
