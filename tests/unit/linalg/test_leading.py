"""The direction that a map stretches most, against decompositions."""

import pytest
import torch

from taut.linalg.leading import leading_direction


def found(matrix, steps, seed=0):
    start = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(seed)).to(matrix)
    return leading_direction(lambda x: matrix.T @ (matrix @ x), start, steps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_a_full_space_has_the_singular_vector(dtype, scale):
    matrix = scale * torch.randn(7, 9, dtype=dtype)
    direction = found(matrix, 50)
    _, values, right = torch.linalg.svd(matrix)
    torch.testing.assert_close((right[0] @ direction).abs(), torch.ones((), dtype=dtype))
    torch.testing.assert_close((matrix @ direction).norm(), values[0])


def test_few_steps_come_nearer_than_power_iteration():
    """Of values that lie close together."""
    scales = torch.linspace(0, 1, 400, dtype=torch.float64)
    direction = x = torch.ones(400, dtype=torch.float64)
    for _ in range(30):
        x = scales**2 * x
    direction = leading_direction(lambda v: scales**2 * v, torch.ones_like(x), 30)
    norm, by_power = ((scales * v).norm() / v.norm() for v in (direction, x))
    assert 0 <= 10 * (1 - norm) < 1 - by_power


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_maps_of_low_rank(rank):
    matrix = torch.randn(6, rank) @ torch.randn(rank, 5)
    direction = found(matrix, 5)
    assert float(direction.norm()) == pytest.approx(1, abs=1e-6)
    assert float((matrix @ direction).norm()) == pytest.approx(
        float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-5
    )


def test_values_that_are_equal():
    direction = found(2 * torch.eye(5), 5)
    assert float((2 * direction).norm()) == pytest.approx(2, rel=1e-6)
