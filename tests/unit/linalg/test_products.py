"""Products of matrices through the fastest routes are the plain products."""

import pytest
import torch

from taut.linalg.products import congruence, difference_of_products, gram, product


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", [1, 7, 255, 256, 513])
def test_congruence_is_the_plain_product(size):
    upper, lower = torch.randn(size, size).triu(), torch.randn(size, size).tril()
    expected = upper.double() @ (lower + lower.mT).double() @ upper.double().mT
    found = congruence(upper, lower)
    assert off(found, expected) < 1e-5
    assert torch.equal(found, found.mT)
    assert off(congruence(upper.double(), lower.double()), expected) < 1e-13


@pytest.mark.parametrize("rows", [0, 1, 1023, 1024, 2500])
@pytest.mark.parametrize("inner", [1, 64])
def test_difference_of_products_is_that_of_plain_ones(rows, inner):
    a, b = torch.randn(inner, rows).mT, torch.randn(inner, 70)
    c, d = torch.randn(rows, 70), torch.randn(70, 70)
    expected = a.double() @ b.double() - c.double() @ d.double()
    found = difference_of_products(a, b, c, d)
    assert found.shape == (rows, 70)
    assert not rows or off(found, expected) < 1e-5


@pytest.mark.parametrize("shape", [(200, 100), (1500, 130), (300, 300)])
@pytest.mark.parametrize("scale", [1e-12, 1, 1e12])
def test_gram_is_the_lower_triangle_of_the_plain_product(shape, scale):
    a = torch.randn(shape) * scale
    expected = a.double().mT @ a.double()
    found = gram(a)
    assert off(found.tril(), expected.tril()) < 1e-6
    assert off(found.diagonal(), expected.diagonal()) < 1e-6


def test_rows_of_a_wider_matrix_are_multiplied_as_they_are():
    wide = torch.randn(300, 500)
    part, other = wide[:, 100:300], torch.randn(200, 128)
    assert off(product(part, other), part.double() @ other.double()) < 1e-5
