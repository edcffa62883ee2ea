"""Outward-rounded scalars against exact rationals; norms of moduli and rows against dense ones."""

import itertools
import math
import random
from fractions import Fraction

import pytest
import torch

from oracles import dense_operator
from taut.linalg import rounding
from taut.linalg.convolution import ConvOperator
from taut.linalg.padding import Padding

EDGES = [0.0, 5e-324, 2.0**-1022, 1e-200, 1 - 2.0**-53, 1.0, 1 + 2.0**-52, 3.0, 1e200]


def floats(count, seed=0):
    rng = random.Random(seed)
    return [*EDGES, *(math.ldexp(rng.random(), rng.randint(-80, 80)) for _ in range(count))]


def test_outward_arithmetic_against_rationals():
    for a, b in itertools.product(floats(30), floats(30, 1)):
        exact, other = Fraction(a), Fraction(b)
        if a * b < math.inf:
            assert rounding.up_product(a, b) >= exact * other
        assert rounding.up_sum(a, b) >= exact + other
        assert exact - other >= rounding.down_difference(a, b)
        if b > 0 and a / b < math.inf:
            assert rounding.up_divide(a, b) >= exact / other >= rounding.down_divide(a, b)
        if b > 0:
            assert rounding.up(exact / other) >= exact / other >= rounding.down(exact / other)


def test_outward_arithmetic_is_exact_where_it_says_so():
    for a in floats(5):
        assert rounding.up_product(a, 1.0) == rounding.up_product(1.0, a) == a
        assert rounding.up_product(a, 0.0) == 0.0
        assert rounding.up_sum(a, 0.0) == rounding.up_sum(0.0, a) == a
        assert rounding.down_difference(a, 0.0) == a
        assert rounding.down_difference(a, a) == 0.0
        assert rounding.up_divide(a, 1.0) == rounding.down_divide(a, 1.0) == a
        assert rounding.up_divide(a, 0.0) == (math.inf if a > 0 else 0.0)
        assert rounding.up_root_sum_square(0.0, a) == a
    assert rounding.up_root_sum_square() == rounding.up_sum() == 0.0
    assert rounding.up_product() == 1.0
    assert rounding.up_root(9.0) == 3.0
    assert rounding.up(Fraction(1, 2)) == rounding.down(Fraction(1, 2)) == 0.5
    for values, power in (([3.0, -5.0], 8.0), ([0.5], 1.0), ([0.0], 0.0), ([], 0.0)):
        assert rounding.power_of_two(torch.tensor(values)) == power


def test_outward_roots_against_rationals():
    values = [*floats(300), float(2**30 + 1) ** 2, math.nextafter(9.0, 10), 2.0**-1074]
    for value in values:
        root = rounding.up_root(value)
        assert Fraction(root) ** 2 >= value
        assert value == 0 or Fraction(math.nextafter(root, 0)) ** 2 < value
    assert rounding.up_root(math.inf) == math.inf


@pytest.mark.parametrize("u", [rounding.U32, rounding.U64])
def test_gamma_is_above_any_product_of_roundings(u):
    for n in (0, 1, 7, 1000):
        value = rounding.gamma(n, u)
        assert value >= n * Fraction(u) / (1 - n * Fraction(u)) >= (1 + Fraction(u)) ** n - 1
    assert rounding.gamma(2**53, rounding.U64) == math.inf


def test_flushing_of_subnormal_numbers_is_refused():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        with pytest.raises(ValueError, match="subnormal"):
            ConvOperator(torch.ones(1, 1), ()).abs_norm_bound()
    finally:
        torch.set_flush_denormal(False)


def cases():
    generator = torch.Generator().manual_seed(0)
    grid = itertools.product(
        ["zeros", "circular", "reflect", "replicate"], [1, 2, 3], [1, 2], [1, 2], [0, 1, 2], [1, 2]
    )
    for number, (mode, k, s, d, p, groups) in enumerate(grid):
        kernel = torch.randn(2 * groups, 3, k, k, generator=generator, dtype=torch.float64)
        scale = 10.0 ** (number % 17 - 8)
        padding = Padding(mode, (p, p), (p, p))
        try:
            yield ConvOperator(kernel * scale, (4, 3), (s, s), (d, d), groups, padding)
        except ValueError:  # no output is left
            continue


def test_norms_of_moduli_and_of_rows_against_dense_operators():
    count = 0
    for op in cases():
        moduli = ConvOperator(
            op.kernel.abs(), op.input_size, op.stride, op.dilation, op.groups, op.padding
        )
        dense_moduli = dense_operator(moduli, (op.in_channels, *op.input_size))
        norm = torch.linalg.matrix_norm(dense_moduli, 2).item()
        assert op.abs_norm_bound() >= norm * (1 - 1e-14)
        count += 1
    assert count > 200


def test_norms_of_moduli_are_close_to_the_truth():
    torch.manual_seed(0)
    matrix = torch.randn(20, 30, dtype=torch.float64)
    op = ConvOperator(matrix, ())
    norm = torch.linalg.matrix_norm(matrix.abs(), 2).item()
    assert norm <= op.abs_norm_bound() <= norm * (1 + 1e-9)
    kernel = torch.randn(4, 3, 3, 3)
    op = ConvOperator(kernel, (8, 8), padding=Padding("circular", (1, 1), (1, 1)))
    norm = torch.linalg.matrix_norm(kernel.abs().double().sum((2, 3)), 2).item()
    assert norm <= op.abs_norm_bound() <= norm * (1 + 1e-9)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-160, 1e160, 1e307])
def test_no_scale_under_or_overflows(scale):
    op = ConvOperator(torch.tensor([[scale, 0.0], [0.0, scale]], dtype=torch.float64), ())
    bound = Fraction(op.abs_norm_bound())
    slack = Fraction(scale) * Fraction(1, 10**12) + Fraction(5e-324) * 3
    assert Fraction(scale) <= bound <= Fraction(scale) + slack


def test_zero_kernels_have_norm_zero():
    op = ConvOperator(torch.zeros(2, 2, 3), (5,))
    assert op.abs_norm_bound() == 0.0
