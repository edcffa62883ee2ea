"""Bounds from few frequencies, or from none, against dense operators and fine grids."""

import math

import pytest
import torch

from taut.linalg import gram, proofs
from taut.linalg.bounds import conv_norm_bound, sampled_norm_bound, tap_norm_bound
from taut.linalg.convolution import ConvOperator
from taut.linalg.gram import gram_kernel
from taut.linalg.padding import Padding
from taut.linalg.sampling import sampled_bound, sampling_factor, sampling_grid

OPTIONS = {  # kernel, size, stride, dilation, groups
    "1-D": ((4, 3, 3), (40,), (1,), (1,), 1),
    "1-D strided, dilated, grouped": ((4, 2, 5), (41,), (2,), (3,), 2),
    "2-D": ((3, 2, 3, 3), (11, 12), (1, 1), (1, 1), 1),
    "2-D strided": ((2, 3, 3, 3), (13, 10), (2, 1), (1, 1), 1),
    "2-D dilated": ((2, 2, 3, 2), (12, 11), (1, 1), (2, 3), 1),
    "2-D grouped": ((4, 1, 3, 3), (10, 11), (1, 1), (1, 1), 4),
    "2-D stride larger than the kernel": ((2, 2, 2, 2), (9, 9), (3, 3), (1, 1), 1),
    "2-D one tap": ((3, 4, 1, 1), (5, 5), (1, 1), (1, 1), 1),
    "2-D one row": ((3, 2, 1, 3), (6, 20), (1, 1), (1, 1), 1),
    "3-D": ((2, 2, 2, 2, 2), (6, 5, 6), (1, 1, 1), (1, 1, 1), 1),
    "3-D strided": ((2, 1, 2, 3, 2), (6, 6, 6), (2, 1, 2), (1, 1, 1), 1),
}


def gaussian(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def uneven(shape, generator):
    """Outputs over 12 decades."""
    scales = torch.logspace(-6, 6, shape[0], dtype=torch.float64)
    return gaussian(shape, generator) * scales.reshape(-1, *[1] * (len(shape) - 1))


KERNELS = {
    "Gaussian": gaussian,
    "large": lambda shape, generator: 1e6 * gaussian(shape, generator),
    "small": lambda shape, generator: 1e-6 * gaussian(shape, generator),
    "uneven": uneven,
    "ones": lambda shape, generator: torch.ones(shape, dtype=torch.float64),
    "alternating": lambda shape, generator: (
        1.0 - 2.0 * (torch.arange(math.prod(shape)).reshape(shape) % 2).double()
    ),
    "zero": lambda shape, generator: torch.zeros(shape, dtype=torch.float64),
}


def operator(name, kernel, mode):
    shape, size, stride, dilation, groups = OPTIONS[name]
    weight = KERNELS[kernel](shape, torch.Generator().manual_seed(0))
    spans = [d * (k - 1) for d, k in zip(dilation, shape[2:], strict=True)]
    sides = tuple(n // 2 for n in spans), tuple(n - n // 2 for n in spans)
    return ConvOperator(weight, size, stride, dilation, groups, Padding(mode, *sides))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("name", OPTIONS)
def test_never_below_the_dense_norm(name, mode):
    for kernel in KERNELS:
        op = operator(name, kernel, mode)
        norm = torch.linalg.matrix_norm(op.dense(), 2).item()
        lattice = conv_norm_bound(op).value
        axes = len(op.input_size)
        taps = math.prod(op.kernel.shape[2:])
        for density, above in ((3, 2.0), (8, 1.09), (16, 1.02)):
            bound = sampled_norm_bound(op, density).value
            assert norm * (1 - 1e-12) <= bound <= lattice * math.sqrt(above**axes) * (1 + 1e-9)
        assert norm * (1 - 1e-12) <= tap_norm_bound(op).value
        assert tap_norm_bound(op).value <= max(lattice, norm) * taps


def test_samples_bound_what_lies_between_them():
    """Against a torus with twelve times as many frequencies."""
    generator = torch.Generator().manual_seed(0)
    for degree, density in ((1, 3), (2, 3), (2, 8), (3, 4)):
        kernels = torch.randn(6, 1, 2, 2, degree + 1, generator=generator, dtype=torch.float64)
        for kernel in kernels:
            gram_of = gram_kernel(kernel)
            (grid,) = sampling_grid(gram_of.degrees, (10**6,), density)
            assert grid == density * degree
            between = largest_square(kernel, 12 * grid)
            assert between <= sampled_bound(gram_of, (10**6,), (grid,))


def largest_square(kernel, points):
    """The largest squared singular value on a grid, by FFT and SVD."""
    symbols = torch.fft.fft(kernel[0], points).movedim(-1, 0)
    return torch.linalg.matrix_norm(symbols, 2).max().item() ** 2


def test_the_factor_covers_a_peak_between_samples():
    """That of |1 + e^iw|^2, moved by half a step."""
    grid = sampling_grid((1, 0, 2), (100, 50, 7), 8)
    assert grid == (8, 1, 7)
    factor = sampling_factor((1, 0, 2), (100, 50, 7), grid)
    assert float(factor) == pytest.approx((1 + 1 / math.cos(math.pi / 8)) / 2, rel=1e-12)
    # 1 + cos(w - pi / 8) is at most 1 + cos(pi / 8) on the grid, and 2 between.
    assert 2 <= (1 + math.cos(math.pi / 8)) * float(factor) <= 2.005


def test_lower_products_are_the_same(monkeypatch):
    kernel = torch.randn(2, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = gram_kernel(kernel).grams
    monkeypatch.setattr(gram, "_BLOCK", 2)
    blocks = gram_kernel(kernel).grams
    torch.testing.assert_close(blocks, whole, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(blocks[:, 0], kernel @ kernel.mT, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("name", ["1-D", "2-D", "2-D strided", "2-D grouped", "2-D one tap"])
def test_proofs_come_from_cheap_to_sharp(name, mode, monkeypatch):
    monkeypatch.setattr(proofs, "_SMALL", 0.0)
    op = operator(name, "uneven", mode)
    norm, ways = torch.linalg.matrix_norm(op.dense(), 2).item(), op.proofs()
    assert sum(way.repeated for way in ways) == 1
    assert [way.factor for way in ways] == sorted((way.factor for way in ways), reverse=True)
    values = [way.bound().value for way in ways]
    assert all(norm * (1 - 1e-12) <= value for value in values)
    repeated = next(way for way in ways if way.repeated).bound().value
    assert repeated == op.norm_bound().value
    assert values[-1] == op.norm_bound(tight=True).value


def test_large_matrices_have_their_moduli_first():
    op = ConvOperator(torch.randn(700, 700, generator=torch.Generator().manual_seed(0)), ())
    first, usual = op.proofs()
    assert (first.repeated, usual.repeated) == (False, True)
    norm = torch.linalg.matrix_norm(op.kernel, 2).item()
    assert norm <= first.bound().value <= first.factor * norm


def test_alike_groups_are_one():
    kernel = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)
    op = ConvOperator(kernel, (6, 7), groups=4)
    norm = torch.linalg.matrix_norm(op.dense(), 2).item()
    for tight in (False, True):
        assert norm <= op.norm_bound(tight=tight).value <= norm * 1.2
