"""Norm bounds of convolution operators: never below the dense operator, and close to it."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from oracles import dense_operator
from taut.linalg.bounds import conv_norm_bound
from taut.linalg.convolution import ConvOperator
from taut.linalg.embedding import embedding
from taut.linalg.padding import Padding
from taut.linalg.rounding import up_product, up_root_sum_square, up_sum


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def true_norm(op):
    matrix = dense_operator(op, (op.in_channels, *op.input_size))
    return torch.linalg.matrix_norm(matrix, 2).item()


def assert_bounds(op, slack=math.inf):
    bound, norm = conv_norm_bound(op).value, true_norm(op)
    assert norm * (1 - 1e-13) <= bound <= norm * (1 + slack)


def orthogonal_kernel(channels, k, seed=0):
    """A shift by one tap after a rotation: orthogonal on every torus."""
    kernel = torch.zeros(channels, channels, k, k, dtype=torch.float64)
    kernel[:, :, 0, k - 1] = torch.linalg.qr(random(channels, channels, seed=seed)).Q
    return kernel


GRID = list(
    itertools.product(
        ["zeros", "circular", "reflect", "replicate"],
        [1, 2, 3, 4],  # kernel
        [1, 2, 3],  # stride
        [1, 2],  # dilation
        [0, 1, 2],  # padding
        [(3, 4), (6, 5)],
    )
)


@pytest.mark.parametrize("groups", [1, 2])
def test_bound_is_above_the_dense_operator(groups):
    checked = 0
    for seed, (mode, k, s, d, p, size) in enumerate(GRID):
        try:
            op = ConvOperator(
                random(2, 2, k, k, seed=seed),
                size,
                (s, s),
                (d, d),
                groups,
                Padding(mode, (p, p), (p, p)),
            )
        except ValueError:  # no output is left
            continue
        if mode == "reflect" and p >= min(size):
            continue
        assert_bounds(op)
        checked += 1
    assert checked > 300


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2), (3, 3)])
@pytest.mark.parametrize("groups", [1, 3])
def test_bound_is_tight_on_the_torus(stride, groups):
    pad = Padding("circular", (1, 1), (1, 1))
    assert_bounds(ConvOperator(random(6, 2, 3, 3), (6, 6), stride, (), groups, pad), slack=1e-9)


@pytest.mark.parametrize("n", [5, 7, 9, 15])
def test_zero_padding_may_exceed_the_torus_of_its_own_size(n):
    row = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64) / 3
    kernel = torch.outer(row, row)[None, None]
    zeros = ConvOperator(kernel, (n, n), padding=Padding("zeros", (1, 1), (1, 1)))
    circular = ConvOperator(kernel, (n, n), padding=Padding("circular", (1, 1), (1, 1)))
    assert true_norm(zeros) > conv_norm_bound(circular).value * 1.003
    assert_bounds(zeros, slack=0.25)


@pytest.mark.parametrize("n", range(2, 8))
def test_zero_padding_of_random_kernels(n):
    for seed in range(20):
        kernel = random(2, 2, 3, 3, seed=seed)
        assert_bounds(ConvOperator(kernel, (n, n), padding=Padding("zeros", (1, 1), (1, 1))))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(("k", "n"), [(5, 1), (5, 2), (7, 3), (9, 4)])
def test_kernel_larger_than_the_input(mode, k, n):
    pad = Padding(mode, (k // 2,) * 2, (k // 2,) * 2)
    assert_bounds(ConvOperator(random(2, 3, k, k), (n, n), padding=pad))


def test_circular_padding_beyond_the_kernel_counts_repeated_outputs():
    op = ConvOperator(random(3, 2, 1, 1), (4, 4), padding=Padding("circular", (1, 1), (1, 1)))
    assert_bounds(op, slack=1e-9)  # corners come four times: exactly twice the norm
    assert conv_norm_bound(op).value > 1.99 * true_norm(ConvOperator(op.kernel, (4, 4)))


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (9, 8)])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_nearly_orthogonal_kernel_needs_no_size(size, mode):
    kernel = orthogonal_kernel(4, 3) + 1e-6 * random(4, 4, 3, 3, seed=1)
    op = ConvOperator(kernel, size, padding=Padding(mode, (1, 1), (1, 1)))
    assert "any input size" in conv_norm_bound(op).proof
    assert_bounds(op, slack=1e-4)


@pytest.mark.parametrize("shape", [(8, 2), (2, 8)])
def test_semi_orthogonal_strided_kernel_needs_no_size(shape):
    matrix = torch.linalg.qr(random(8, 8)).Q[: shape[0], : shape[1] * 4].reshape(shape[0], -1, 2, 2)
    op = ConvOperator(matrix, (6, 4), stride=(2, 2))
    bound = conv_norm_bound(op)
    assert "any input size" in bound.proof
    assert 1 - 1e-13 <= bound.value <= 1 + 1e-9


def test_defect_bound_covers_peaks_between_its_grid_points():
    for seed in range(60):
        kernel = 1e-5 * random(1, 1, 4, seed=seed)
        kernel[..., 0] = 1.0
        op = ConvOperator(kernel, (240,), padding=Padding("circular", (0,), (3,)))
        assert "any input size" in conv_norm_bound(op).proof
        w = torch.arange(240, dtype=torch.float64)[:, None] * torch.arange(4) * (2 * torch.pi / 240)
        real, imag = (w.cos() @ kernel[0, 0]).square(), (w.sin() @ kernel[0, 0]).square()
        assert (real + imag).max().sqrt().item() <= conv_norm_bound(op).value


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_torus_holds_every_position_that_a_window_reads(mode):
    for n, p, s in itertools.product([4, 5], [0, 1, 2], [1, 2, 3]):
        op = ConvOperator(random(1, 1, 3), (n,), (s,), padding=Padding(mode, (p,), (p,)))
        (size,), (stride,), _ = embedding(op)
        assert stride == s
        assert size * s >= (n + p if mode == "zeros" else n + 2 * p)


def test_far_from_orthogonal_kernels_are_not_bounded_by_their_defect():
    kernel = orthogonal_kernel(4, 3) + 0.1 * random(4, 4, 3, 3, seed=1)
    op = ConvOperator(kernel, (6, 6), padding=Padding("circular", (1, 1), (1, 1)))
    assert "frequencies" in conv_norm_bound(op).proof
    assert_bounds(op, slack=1e-9)


def test_groups_take_the_largest_not_the_product():
    kernel = torch.cat([random(1, 1, 3, 3) / 10, 5 * random(1, 1, 3, 3, seed=1)])
    pad = Padding("circular", (1, 1), (1, 1))
    op = ConvOperator(kernel, (4, 4), groups=2, padding=pad)
    largest = max(true_norm(ConvOperator(k, (4, 4), padding=pad)) for k in kernel.chunk(2))
    assert conv_norm_bound(op).value == pytest.approx(largest, rel=1e-9)


def test_a_zero_group_does_not_disturb_the_others():
    kernel = torch.cat([torch.zeros(1, 1, 2, 2, dtype=torch.float64), random(1, 1, 2, 2)])
    assert_bounds(ConvOperator(kernel, (4, 4), groups=2))
    assert conv_norm_bound(ConvOperator(0 * kernel, (4, 4))).value == 0


@pytest.mark.parametrize("scale", [1e-310, 1e-170, 1e-8, 1e8, 1e160, 1e300])
def test_no_scale_under_or_overflows(scale):
    kernel = orthogonal_kernel(2, 2)
    op = ConvOperator(kernel * scale, (4, 4), padding=Padding("zeros", (1, 1), (1, 1)))
    assert scale * (1 - 1e-9) <= conv_norm_bound(op).value <= scale * (1 + 1e-3)


def test_float32_gram_iteration_is_below_the_norm_but_the_bound_is_not():
    below = 0
    for seed in range(40):
        weight = random(30, 20, seed=seed).float()
        norm = torch.linalg.matrix_norm(weight.double(), 2).item()
        bound = conv_norm_bound(ConvOperator(weight, ())).value
        assert norm * (1 - 1e-14) <= bound <= norm * (1 + 1e-9)
        gram, log = weight, 0.0
        for step in range(12):
            size = gram.norm()
            gram, log = gram / size, log + math.log(size.item()) / 2**step
            gram = gram.T @ gram
        below += math.exp(log) * gram.norm().item() ** (1 / 2**12) < norm
    assert below > 0


def test_one_axis_and_matrices():
    assert_bounds(ConvOperator(random(3, 4, 5), (9,), (2,), padding=Padding("zeros", (2,), (2,))))
    assert_bounds(ConvOperator(random(7, 4), ()), slack=1e-9)
    assert_bounds(ConvOperator(random(4, 7), ()), slack=1e-9)


def test_three_axes():
    conv = nn.Conv3d(2, 3, 3, padding=1, bias=False).double()
    op = ConvOperator(conv.weight, (3, 3, 2), padding=Padding("zeros", (1, 1, 1), (1, 1, 1)))
    assert torch.equal(op(random(1, 2, 3, 3, 2)), conv(random(1, 2, 3, 3, 2)))
    assert_bounds(op)


def test_sums_and_products_round_up():
    for seed in range(200):
        a, b, c = random(3, seed=seed).abs().tolist()
        fa, fb, fc = map(Fraction, (a, b, c))
        assert Fraction(up_product(a, b, c)) >= fa * fb * fc
        assert Fraction(up_sum(a, b, c)) >= fa + fb + fc
        assert Fraction(up_root_sum_square(a, b, c)) ** 2 >= fa**2 + fb**2 + fc**2
    assert up_product(5e-324, 0.5) > 0
    assert up_product(1.0, 1.0, 1.0) == 1.0
    assert up_root_sum_square(1e200, 1e200) < 1.5e200


@pytest.mark.parametrize("scale", [1e-30, 1.0])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_copies_around_small_images_are_bounded_by_the_dense_operator(mode, groups, scale):
    """Copies are as in the whole operator: what it takes from a pixel and its copies may cancel."""
    checked = 0
    cases = itertools.product([3, 5], [1, 2], [1, 2], [(5, 6), (7,)])
    for k, s, p, size in [*cases, (3, 1, 1, (3, 4, 3))]:
        axes = len(size)
        kernel = scale * random(groups, 2, *[k] * axes, seed=k + s)
        sides = (p,) * axes
        op = ConvOperator(kernel, size, (s,) * axes, (), groups, Padding(mode, sides, sides))
        norm, bound = true_norm(op), op.norm_bound(tight=True)
        assert norm * (1 - 1e-13) <= bound.value <= conv_norm_bound(op).value
        if embedding(op)[2] > 1:
            assert bound.value <= norm * (1 + 1e-8)
            checked += 1
    assert checked > 2


def test_entries_of_dense_operators_that_are_sums_count_their_rounding(monkeypatch):
    op = ConvOperator(random(1, 1, 3), (4,), (), (), 1, Padding("reflect", (1,), (1,)))
    exact = op.norm_bound(tight=True).value
    monkeypatch.setattr("taut.linalg.operator.gamma", lambda n, u: 1e-6 * n)
    coarse = op.norm_bound(tight=True).value
    # Three products are summed, in each of four columns.
    assert coarse >= exact + 2 * 3e-6 * abs(op.kernel).sum().item() * 0.99
