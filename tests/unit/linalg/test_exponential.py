"""The exponential by products against torch's, which chooses its degree by the norm."""

import math

import pytest
import torch

from taut.linalg.exponential import exponential


@pytest.mark.parametrize("bound", [0.1, 0.5, 0.6, 3.0, 70.0])
@pytest.mark.parametrize("skew", [False, True])
def test_values_and_gradients_are_those_of_torch(bound, skew):
    a = torch.randn(7, 7, dtype=torch.float64)
    a = a - a.T if skew else -a @ a.T  # eigenvalues that are imaginary, or negative
    a = (a * bound / torch.linalg.matrix_norm(a, 2)).requires_grad_()
    slope = torch.randn_like(a)
    found, expected = exponential(a, bound), torch.linalg.matrix_exp(a)
    ours, theirs = (torch.autograd.grad(y, a, slope)[0] for y in (found, expected))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_quarter_turn_in_float32():
    a = torch.tensor([[0.0, -math.pi / 2], [math.pi / 2, 0.0]])
    torch.testing.assert_close(exponential(a, 1.6), torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
