"""Spectra and norm bounds of convolution operators against the dense operator."""

import itertools

import pytest
import torch
from torch import nn

from oracles import dense_operator
from taut.linalg.convolution import ConvOperator
from taut.linalg.embedding import polyphase
from taut.linalg.padding import Padding


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(function, *shape):
    return dense_operator(function, shape)


def sigma(matrix):
    return torch.linalg.svdvals(matrix)


def assert_same(got, want):
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def circular(kernel, stride, dilation, groups, size):
    """An operator on the torus: the padding keeps every output position exactly once."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel.shape[2:], dilation, strict=True)]
    total = [max(0, r - s) for r, s in zip(reach, stride, strict=True)]
    left = tuple(t // 2 for t in total)
    right = tuple(t - h for t, h in zip(total, left, strict=True))
    return ConvOperator(kernel, size, stride, dilation, groups, Padding("circular", left, right))


CASES_2D = [
    (k, s, d, g, size)
    for k, s, d, g, size in itertools.product(
        [(1, 1), (2, 3), (3, 3), (4, 4)],
        [(1, 1), (2, 2), (1, 2)],
        [(1, 1), (2, 1)],
        [1, 2],
        [(4, 4), (6, 4)],
    )
]


@pytest.mark.parametrize(("k", "s", "d", "g", "size"), CASES_2D)
def test_torus_spectrum_is_the_dense_one(k, s, d, g, size):
    kernel = random(4, 3, *k)
    op = circular(kernel, s, d, g, size)
    assert op.is_torus
    assert_same(op.singular_values(), sigma(dense(op, 3 * g, *size)))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize(
    ("k", "s", "p", "d"), [(3, 1, 1, 1), (3, 2, 1, 1), (4, 3, 2, 1), (2, 1, 0, 2)]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_operator_is_torchs(mode, k, s, p, d, groups):
    conv = nn.Conv2d(4, 6, k, s, p, d, groups, bias=False, padding_mode=mode).double()
    pad = Padding(mode, (p, p), (p, p))
    op = ConvOperator(conv.weight, (5, 6), (s, s), (d, d), groups, pad)
    assert_same(op.dense(), dense(conv, 4, 5, 6))
    assert_same(op.singular_values(), sigma(dense(conv, 4, 5, 6)))


def test_extended_input_is_zero_extended_first():
    kernel = random(3, 2, 3, 3)
    pad = Padding("circular", (1, 1), (0, 0), extend=(1, 0))
    op = ConvOperator(kernel, (5, 4), (2, 2), padding=pad)

    def by_hand(x):
        x = nn.functional.pad(x, (0, 0, 0, 1))
        x = nn.functional.pad(x, (1, 0, 1, 0), mode="circular")
        return nn.functional.conv2d(x, kernel, stride=2)

    assert_same(op.dense(), dense(by_hand, 2, 5, 4))
    assert not op.is_torus
    assert_same(op.singular_values(), sigma(dense(by_hand, 2, 5, 4)))


def test_an_extended_axis_is_no_torus_even_if_the_sizes_match():
    op = ConvOperator(random(1, 1, 3), (4,), padding=Padding("circular", (1,), (0,), extend=(1,)))
    assert op.output_size == (4,)
    assert_same(op.singular_values(), sigma(dense(op, 1, 4)))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3)])
def test_kernel_larger_than_the_input_wraps(size):
    op = circular(random(2, 2, 5, 5), (1, 1), (1, 1), 1, size)
    assert_same(op.singular_values(), sigma(dense(op, 2, *size)))


def test_one_axis_and_none():
    op = circular(random(3, 2, 4), (2,), (1,), 1, (6,))
    assert_same(op.singular_values(), sigma(dense(op, 2, 6)))
    weight = random(3, 5)
    assert_same(ConvOperator(weight, ()).singular_values(), sigma(weight))


def test_groups_are_blocks():
    kernel = torch.cat([random(2, 2, 3, 3), 100 * random(2, 2, 3, 3, seed=1)])
    whole = circular(kernel, (1, 1), (1, 1), 2, (4, 4)).singular_values()
    parts = [circular(k, (1, 1), (1, 1), 1, (4, 4)).singular_values() for k in kernel.chunk(2)]
    assert_same(whole, torch.cat(parts).sort(descending=True).values)


def test_small_singular_values_keep_their_digits():
    scales = torch.diag(torch.tensor([1.0, 1e-6, 1e-11], dtype=torch.float64))
    left, right = (torch.linalg.qr(random(3, 3, seed=s)).Q for s in (1, 2))
    op = ConvOperator((left @ scales @ right)[:, :, None, None], (3, 3))
    got = op.singular_values().reshape(3, 9)[:, 0]
    torch.testing.assert_close(got, scales.diagonal(), rtol=1e-4, atol=0)


def test_polyphase_on_the_unshuffled_input_is_the_strided_convolution():
    kernel, x = random(2, 3, 4, 4), random(1, 3, 8, 8, seed=1)
    phases = polyphase(kernel, (2, 2), (1, 1))
    got = nn.functional.conv2d(nn.functional.pixel_unshuffle(x, 2), phases)
    assert_same(got, nn.functional.conv2d(x, kernel, stride=2))


def test_too_large_names_the_limit():
    op = ConvOperator(torch.ones(8, 8, 3, 3), (64, 64), padding=Padding("zeros", (1, 1), (1, 1)))
    with pytest.raises(ValueError, match="at most 16777216 entries"):
        op.singular_values()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": torch.full((1, 1, 2, 2), torch.nan)}, "NaN or Inf"),
        ({"kernel": torch.ones(1, 1, 2, 2, dtype=torch.int64)}, "floating point"),
        ({"input_size": (4,)}, "input_size"),
        ({"input_size": (1, 4)}, "leave an output"),
        ({"stride": (0, 1)}, "stride"),
        ({"groups": 2}, "groups"),
        ({"padding": Padding("wrap")}, "mode"),
        ({"padding": Padding("zeros", (-1, 0))}, "left"),
    ],
)
def test_impossible_operators_are_refused(change, message):
    arguments = {"kernel": torch.ones(3, 1, 2, 2), "input_size": (4, 4)} | change
    with pytest.raises(ValueError, match=message):
        ConvOperator(**arguments)
