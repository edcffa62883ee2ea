"""Nearest orthonormal matrices by products, against the polar factor of an SVD."""

import pytest
import torch
from torch import Tensor

from taut.linalg.retraction import is_orthonormal, nearest_orthonormal

SHAPES = [(1, 1), (5, 5), (7, 3), (3, 8, 4), (2, 2, 6, 1), (300, 200), (2, 130, 70)]
DTYPES = [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)]


def point(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))[0]


def near(shape: tuple[int, ...], distance: float) -> Tensor:
    """A matrix off an orthonormal one by this spectral norm."""
    move = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return point(shape) + move * (distance / torch.linalg.matrix_norm(move, 2)[..., None, None])


def polar(a: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(a.double(), full_matrices=False)
    return u @ v


def defect(q: Tensor) -> float:
    return float((torch.linalg.svdvals(q.double()) - 1).abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("distance", [0.0, 1e-3, 0.02, 0.2])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_the_polar_factor(shape, distance, dtype, tolerance):
    a = near(shape, distance).to(dtype)
    q = nearest_orthonormal(a)
    assert q.dtype == dtype
    assert q.shape == shape
    assert defect(q) < tolerance
    assert float((q - polar(a)).abs().max()) < tolerance


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("distance", [0.6, 3.0, 1e6])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_large_steps_end_on_the_manifold(shape, distance, dtype, tolerance):
    assert defect(nearest_orthonormal(near(shape, distance).to(dtype))) < tolerance


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_finite_matrix_has_one(scale, dtype):
    rank_deficient = point((6, 3)).roll(1, -1)
    rank_deficient[:, 1] = rank_deficient[:, 0]
    for a in (point((6, 3)), torch.randn(6, 3, dtype=torch.float64), rank_deficient):
        assert defect(nearest_orthonormal((scale * a).to(dtype))) < 1e-6


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_other_ones_are_refused(value):
    a = point((4, 2))
    a[1, 1] = value
    with pytest.raises(ValueError, match="must be finite"):
        nearest_orthonormal(a)


def test_one_far_matrix_leaves_the_others_near():
    a = near((3, 8, 4), 0.1)
    a[1] *= torch.tensor([1.0, 1e-3, 1.0, 1.0])
    q = nearest_orthonormal(a)
    assert defect(q) < 1e-13
    assert torch.allclose(q[::2], polar(a[::2]), atol=1e-13)


def test_it_is_the_projection_to_the_tangent_space_to_first_order():
    v, x = point((9, 4)), torch.randn(9, 4, dtype=torch.float64)
    inside = v.mT @ x
    tangent = x - v @ (inside + inside.mT) / 2
    errors = [
        float((nearest_orthonormal(v + t * x) - v - t * tangent).norm()) for t in (1e-3, 5e-4)
    ]
    assert errors[0] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("shape", [(0, 0), (4, 0), (0, 5, 2)])
def test_nothing_is_orthonormal(shape):
    assert nearest_orthonormal(torch.zeros(shape)).shape == shape
    assert is_orthonormal(torch.zeros(shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_orthonormal_matrices_are_told_from_others(shape, dtype):
    v = nearest_orthonormal(near(shape, 0.1).to(dtype))
    assert is_orthonormal(v)
    assert is_orthonormal(point(shape).to(dtype))
    assert not is_orthonormal(v * (1 + 1e-3))
    assert not is_orthonormal(torch.full_like(v, torch.nan))
    if shape[-1] > 1:
        assert not is_orthonormal(v + 1e-3 * v.roll(1, -1))
