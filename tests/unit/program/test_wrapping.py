"""Wrapped transposed convolutions are taken for adjoints where the dense matrices are equal."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from taut.program import trace


def merged(layers, n):
    program = trace(layers, (1, n))
    return any(node.args.get("wrap") for node in program.nodes if node.op == "conv_transpose")


def is_adjoint(layers, n, s, d, k):
    """Whether for each tap the matrix is the transpose of a circular convolution's."""
    (pad, layer), span = layers, d * (k - 1) + 1
    total, equal = max(0, span - s), []
    for left in range(total + 1):
        equal.append(True)
        for tap in torch.eye(k)[:, None]:
            steps = (s, layer.padding, layer.output_padding, 1, d)
            here = F.conv_transpose1d(pad(torch.eye(n)[:, None]), tap[None], None, *steps)[:, 0]
            image = F.pad(torch.eye(n * s)[:, None], (left, total - left), "circular")
            there = F.conv1d(image, tap[None], None, s, 0, d)[:, 0].T
            equal[-1] = equal[-1] and torch.equal(here, there)
    return any(equal)


@pytest.mark.parametrize(("k", "s", "d"), [(1, 2, 1), (3, 2, 1), (5, 2, 1), (4, 3, 1), (3, 1, 2)])
def test_merged_where_the_dense_matrices_are_adjoint(k, s, d):
    n, outcomes = 6, set()
    sides = (range(3), range(3), range(7), range(max(s, d)))
    for before, after, padding, more in itertools.product(*sides):
        if (n + before + after - 1) * s - 2 * padding + d * (k - 1) + 1 + more != n * s:
            continue
        options = {"bias": False, "dilation": d}
        layer = nn.ConvTranspose1d(1, 1, k, s, padding, more, **options)
        layers = nn.Sequential(nn.CircularPad1d((before, after)), layer)
        if before or after:
            outcomes.add(merged(layers, n))
            assert merged(layers, n) == is_adjoint(layers, n, s, d, k)
    assert k == 1 or outcomes == {True, False}


def test_a_second_of_audio_is_bounded():
    layer = taut.nn.ConvTranspose1d(16, 1, 32, stride=5)  # dense matrices would take 13 GB
    assert 1 - 1e-6 < float(taut.lipschitz_bound(layer, (16, 3200))) < 1 + 1e-5
