"""LU decompositions of wide matrices in a batch, on several threads."""

import pytest
import torch

from taut.linalg.lu import determinants, divided


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("n", [3, 192])
def test_systems_are_solved(n, dtype):
    a = torch.randn(2, 2, n, n, dtype=dtype) + 4 * n**0.5 * torch.eye(n, dtype=dtype)
    x = torch.randn(2, 2, 5, n, dtype=dtype)
    assert torch.allclose(divided(x @ a, a), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [3, 192])
def test_determinants_of_orthogonal_matrices_are_signs(n):
    q = torch.linalg.qr(torch.randn(4, n, n, dtype=torch.float64))[0]
    q[1, 0] *= -1
    values = determinants(q)
    assert torch.allclose(values.abs(), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(values, torch.stack([torch.linalg.det(one) for one in q]))
