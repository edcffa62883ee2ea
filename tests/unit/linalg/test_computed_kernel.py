"""Composed convolutions against products of dense matrices."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.convolution import ConvOperator
from taut.linalg.padding import Padding


def conv(c_in, c_out, kernel, size, *, seed=0, mode="zeros", pads=0, **options):
    generator = torch.Generator().manual_seed(seed)
    groups = options.get("groups", 1)
    weight = torch.randn(c_out, c_in // groups, *kernel, generator=generator, dtype=torch.float64)
    sides = (pads,) * len(kernel)
    return ComputedKernel.of(
        ConvOperator(weight, size, padding=Padding(mode, sides, sides), **options)
    )


def assert_is(kernel, matrix):
    """The composed kernel is that of a matrix, and the bound holds for it and is near."""
    assert kernel is not None
    torch.testing.assert_close(kernel.operator.dense(), matrix, rtol=1e-12, atol=1e-12)
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    assert norm <= kernel.norm_bound(tight=True).value <= norm * (1 + 1e-4)
    assert norm <= kernel.norm_bound().value


def factors(*values, size=(5, 4)):
    return ComputedKernel.channelwise(torch.tensor(values), size)


def matrix(outputs, inputs, size=(5, 4)):
    generator = torch.Generator().manual_seed(outputs)
    return ComputedKernel.matrix(torch.randn(outputs, inputs, generator=generator), size)


TORUS = {"mode": "circular", "pads": 1}
HALF = {"stride": (2, 2)}

PAIRS = {
    "factors behind": (factors(2.0, -3, 0.5, size=(5, 6)), conv(2, 3, (3, 2), (5, 5), pads=1)),
    "factors in front": (conv(2, 4, (3, 3), (5, 4), pads=1), factors(2.0, -3)),
    "factors and groups": (conv(4, 4, (3, 3), (5, 4), pads=1, groups=2), factors(2.0, -3, 1, 0)),
    "a matrix behind": (matrix(4, 3, (3, 2)), conv(2, 3, (3, 3), (5, 4), pads=1, **HALF)),
    "a matrix in front": (conv(3, 2, (3, 3), (5, 4), **TORUS), matrix(3, 4)),
    "two matrices": (matrix(4, 3, ()), matrix(3, 5, ())),
    "two on a torus": (conv(3, 2, (3, 3), (5, 4), **TORUS), conv(2, 3, (3, 3), (5, 4), **TORUS)),
    "a stride on a torus": (
        conv(3, 2, (2, 2), (6, 4), **HALF), conv(2, 3, (3, 3), (6, 4), **TORUS),
    ),
    "a pool behind": (
        conv(3, 3, (2, 2), (6, 4), groups=3, **HALF), conv(2, 3, (3, 3), (6, 4), pads=1),
    ),
    "strides and dilations": (
        conv(3, 2, (2,), (8,), stride=(2,), dilation=(2,)),
        conv(2, 3, (3,), (17,), stride=(2,), dilation=(2,), pads=1),
    ),
    "three axes": (conv(2, 2, (2, 1, 2), (3, 3, 2)), conv(1, 2, (2, 2, 2), (4, 4, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_one_after_the_other(name):
    last, first = PAIRS[name]
    assert_is(last.after(first), last.operator.dense() @ first.operator.dense())


def test_factors_pass_copies_at_the_border():
    reflecting = conv(2, 4, (3, 3), (5, 4), pads=1, mode="reflect")
    first = factors(2.0, -3)
    product = reflecting.operator.dense() @ first.operator.dense()
    torch.testing.assert_close(reflecting.after(first).operator.dense(), product)


def test_zeros_between_two_kernels_have_no_kernel():
    padded = conv(2, 2, (3, 3), (4, 4), pads=1)
    assert padded.after(padded) is None


def test_what_leaves_the_torus_has_no_kernel():
    torus = conv(2, 2, (3, 3), (4, 4), **TORUS)
    halved = conv(2, 2, (3, 3), (8, 8), stride=(2, 2), **TORUS)
    assert torus.after(halved) is None
    cropped = conv(2, 2, (4, 4), (5, 5), **TORUS)
    assert torus.after(cropped) is None


@pytest.mark.parametrize("scaled", [0, 1])
def test_factors_around_an_adjoint(scaled):
    plain = conv(3, 2, (3, 3), (5, 4), pads=1)
    adjoint = replace(plain, transposed=True)
    scale = factors(*(2.0, -3.0, 0.5)[: 2 if scaled else 3])
    last, first = (adjoint, scale) if scaled else (scale, adjoint)
    assert_is(last.after(first), last.operator.dense() @ first.operator.dense())


def test_sums():
    one, two = conv(2, 2, (3, 3), (5, 4), pads=1), conv(2, 2, (3, 3), (5, 4), pads=1, seed=1)
    assert_is(one.plus(two), one.operator.dense() + two.operator.dense())
    same = ComputedKernel.channelwise(torch.ones(2), (5, 4))
    for pair in itertools.permutations((one, same)):
        assert_is(pair[0].plus(pair[1]), one.operator.dense() + torch.eye(40).double())


def test_rows():
    one = conv(2, 2, (3, 3), (5, 4), pads=1)
    matrix = torch.zeros(5 * 20, 40, dtype=torch.float64)
    matrix[20:60] = one.operator.dense()
    assert_is(one.rows(1, 2), matrix)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_random_chains(data):
    """Any chain that has a kernel is the product of its matrices, and its bound holds."""
    size, channels = (4, 3), 2
    chain, product = None, torch.eye(24, dtype=torch.float64)
    for _ in range(data.draw(st.integers(2, 4))):
        kind = data.draw(st.sampled_from(("factors", "matrix", "torus", "groups")))
        seed = data.draw(st.integers(0, 99))
        generator = torch.Generator().manual_seed(seed)
        if kind == "factors":
            part = ComputedKernel.channelwise(torch.randn(channels, generator=generator), size)
        elif kind == "matrix":
            part = ComputedKernel.matrix(torch.randn(channels, channels, generator=generator), size)
        else:
            groups = 1 + (kind == "groups")
            part = conv(2, 2, (3, 3), size, seed=seed, pads=1, mode="circular", groups=groups)
        product = part.operator.dense() @ product
        chain = part if chain is None else part.after(chain)
        if chain is None:
            return
    norm = torch.linalg.matrix_norm(product, 2).item()
    bound = chain.norm_bound().value
    assert norm <= bound * (1 + 1e-12)
    torch.testing.assert_close(chain.operator.dense(), product, rtol=1e-10, atol=1e-10)
