"""Growth of kernels by two-tap steps: the block convolution, and its gradients."""

import pytest
import torch
from torch import Tensor

from taut.linalg import block
from taut.linalg.bases import orthonormal_basis
from taut.linalg.block import grow

# groups, grid, rows, channels, rank
SIZES = [(1, (1,), 3, 4, 2), (2, (3,), 2, 5, 2), (1, (2, 3), 4, 4, 1), (3, (1, 2), 1, 3, 3)]


def taps_and_basis(groups, grid, rows, channels, rank, dtype=torch.float64):
    taps = torch.randn(groups, *grid, rows, channels, dtype=dtype)
    return taps, orthonormal_basis(torch.randn(groups, channels, rank, dtype=dtype))


def by_loop(taps: Tensor, basis: Tensor, axis: int, flipped: bool) -> Tensor:
    """Tap by tap, with the projector built."""
    projector = basis @ basis.mT
    rest = torch.eye(basis.shape[-2], dtype=basis.dtype) - projector
    first, second = (rest, projector) if flipped else (projector, rest)
    k = taps.shape[axis + 1]
    shape = list(taps.shape)
    shape[axis + 1] = k + 1
    longer = taps.new_zeros(shape)
    for group in range(len(taps)):
        for tap in range(k):
            here = taps[group].select(axis, tap)
            longer[group].select(axis, tap).add_(here @ first[group])
            longer[group].select(axis, tap + 1).add_(here @ second[group])
    return longer


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_growth_is_the_block_convolution(size, flipped):
    taps, basis = taps_and_basis(*size)
    for axis in range(len(size[1])):
        found = grow(taps, basis, axis, flipped=flipped)
        assert torch.allclose(found, by_loop(taps, basis, axis, flipped), atol=1e-13)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_growth_is_differentiable_any_number_of_times(size, flipped):
    inputs = tuple(t.requires_grad_() for t in taps_and_basis(*size))
    axis = len(size[1]) - 1

    def f(taps, basis):
        return grow(taps, basis, axis, flipped=flipped)

    assert torch.autograd.gradcheck(f, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_large_growth_is_the_plain_one(groups, flipped):
    inputs = taps_and_basis(groups, (2, 1), 150, 200, 100, torch.float32)
    grad = torch.randn(groups, 3, 1, 150, 200)

    def gradients(f, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in inputs]
        return torch.autograd.grad(f(*leaves), leaves, grad.to(dtype))

    found = gradients(lambda *args: grow(*args, 0, flipped=flipped), torch.float32)
    expected = gradients(lambda *args: block._grown(*args, 1, flipped), torch.float64)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_of_functions_see_growth():
    taps, basis = taps_and_basis(1, (2,), 3, 4, 2)
    tangent = torch.randn_like(taps)
    _, found = torch.func.jvp(lambda t: grow(t, basis, 0), (taps,), (tangent,))
    assert torch.allclose(found, grow(tangent, basis, 0))
    jacobian = torch.func.jacrev(lambda t: grow(t, basis, 0))(taps)
    expected = torch.autograd.functional.jacobian(lambda t: grow(t, basis, 0), taps)
    assert torch.allclose(jacobian, expected)
    many = torch.stack((taps, 2 * taps))
    assert torch.allclose(torch.vmap(lambda t: grow(t, basis, 0))(many)[1], grow(many[1], basis, 0))
