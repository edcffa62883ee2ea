"""Bases of matrices of several shapes in one batched call, where calls cost more than numbers."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.bases import orthonormal_basis

Shape = tuple[int, int, int]  # matrices, rows, columns

# Multiplications in float64 that a GPU does while it launches the operations of one basis.
_SMALL = 1 << 28


def packs(shapes: Sequence[Shape]) -> list[list[int]]:
    """Which of these stacks of matrices to pack together: the small ones, by their places.

    Example:
        >>> packs([(4, 64, 32), (1, 4096, 512), (1, 64, 3)])
        [[2, 0], [1]]
    """
    found: list[list[int]] = []
    for place in sorted(range(len(shapes)), key=lambda i: (shapes[i][2], shapes[i][1])):
        if found and _work([shapes[i] for i in (*found[-1], place)]) <= _SMALL:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def packed_bases(stacks: Sequence[Tensor]) -> list[Tensor]:
    r"""Orthonormal bases of stacks of matrices `(b, m, n)` of any shapes, from one call.

    Each matrix A is embedded as :math:`\mathrm{diag}(A, I)` in matrices of one shape, of which the
    basis is :math:`\mathrm{diag}(Q, I)`.

    Guarantee: as :func:`orthonormal_basis`; gradients, too, unless a matrix is below 1e-13 times
        the identity, where their damping sets in.
    Cost: one call for the largest shape, and seven operations to pack and unpack.

    Example:
        >>> a, b = torch.tensor([[[2.0]]]), torch.tensor([[[0.0], [3.0]]])
        >>> packed_bases([a, b])
        [tensor([[[1.]]]), tensor([[[0.],
                 [1.]]])]
    """
    shapes = tuple((len(stack), stack.shape[1], stack.shape[2]) for stack in stacks)
    if len({shape[1:] for shape in shapes}) == 1:
        return list(orthonormal_basis(torch.cat(list(stacks))).split([s[0] for s in shapes]))
    return blocks(orthonormal_basis(embedded(stacks, _common(shapes))), shapes)


def embedded(
    stacks: Sequence[Float[Tensor, "_ _ _"]], size: tuple[int, int]
) -> Float[Tensor, "b m n"]:
    r"""All matrices A of some stacks as :math:`\mathrm{diag}(A, I)` of one size, in one stack.

    There must be enough rows: `m - m_i >= n - n_i`.

    Example:
        >>> embedded([torch.full((1, 2, 1), 5.0)], (3, 2))[0]
        tensor([[5., 0.],
                [5., 0.],
                [0., 1.]])
    """
    shapes = tuple((len(stack), stack.shape[1], stack.shape[2]) for stack in stacks)
    plan = _plan(shapes, size, True, stacks[0].dtype, stacks[0].device)
    flat = torch.cat([*(stack.reshape(-1) for stack in stacks), plan.constants])
    return _Gather.apply(flat, *plan.to_packed, *plan.to_flat)  # pyright: ignore[reportReturnType]


def blocks(packed: Float[Tensor, "b m n"], shapes: Sequence[Shape]) -> list[Float[Tensor, "_ _ _"]]:
    """The upper left blocks of these shapes: stacks of matrices from one stack.

    Example:
        >>> blocks(torch.eye(3)[None], [(1, 2, 1)])
        [tensor([[[1.],
                 [0.]]])]
    """
    size = packed.shape[1], packed.shape[2]
    plan = _plan(tuple(shapes), size, False, packed.dtype, packed.device)
    flat = _Gather.apply(packed, *plan.to_flat, *plan.to_packed)
    parts = flat.split([*(b * m * n for b, m, n in shapes), 2])  # pyright: ignore[reportOptionalMemberAccess]
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=False)]


def _common(shapes: Sequence[Shape]) -> tuple[int, int]:
    """Rows and columns of the matrices in which all of these are embedded."""
    columns = max(n for _, _, n in shapes)
    return columns + max(m - n for _, m, n in shapes), columns


def _work(shapes: Sequence[Shape]) -> int:
    rows, columns = _common(shapes)
    return sum(count for count, _, _ in shapes) * rows * columns**2


class _Plan(NamedTuple):
    """Where the numbers go: flat ones, behind which are the constants 0 and 1, and packed ones.

    Each way it is an index into the flattened source, and the shape of the result.
    """

    to_packed: tuple[Tensor, tuple[int, ...]]
    to_flat: tuple[Tensor, tuple[int, ...]]
    constants: Tensor


@functools.lru_cache(maxsize=64)
def _plan(
    shapes: tuple[Shape, ...],
    size: tuple[int, int],
    completed: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> _Plan:
    rows, columns = size
    numbers = sum(count * m * n for count, m, n in shapes)
    with torch.inference_mode(mode=False), torch.device("cpu"):
        packed, start = [], 0
        for count, m, n in shapes:
            part = torch.full((count, rows, columns), numbers)
            part[:, :m, :n] = torch.arange(start, start + count * m * n).view(count, m, n)
            if completed:
                part[:, range(m, m + columns - n), range(n, columns)] = numbers + 1
            packed.append(part)
            start += count * m * n
        index = torch.cat(packed)
        flat = torch.zeros(numbers + 2, dtype=torch.int64)
        inside = (index.flatten() < numbers).nonzero()[:, 0]
        flat[index.flatten()[inside]] = inside
        constants = torch.tensor([0.0, 1.0], dtype=dtype)
        to_packed = index.flatten().int().to(device), tuple(index.shape)
        return _Plan(to_packed, (flat.int().to(device), (len(flat),)), constants.to(device))


class _Gather(torch.autograd.Function):
    """Gather numbers by an index; the gradient is gathered by the index of the way back."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, shape: tuple, back: Tensor, back_shape: tuple) -> Tensor:
        return x.reshape(-1).index_select(0, index).view(shape)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.ways = inputs[1:]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        index, shape, back, back_shape = ctx.ways
        return _Gather.apply(grad, back, back_shape, index, shape), None, None, None, None  # pyright: ignore[reportReturnType]
