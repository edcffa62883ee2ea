"""The direction that a linear map stretches most, by its Krylov space: an estimate, no proof."""

from collections.abc import Callable

import torch
from torch import Tensor

_SQUARINGS = 20


def leading_direction(normal: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    r"""Estimate the right singular vector of the largest singular value of a linear map A.

    Lanczos' method: of all vectors in the span of :math:`x, Mx, \dots, M^{k-1} x`,
    :math:`M = A^\top A`, the one with the largest :math:`\|A v\|`. That takes the root of the steps
    that power iteration would take. Every vector is made orthogonal to all before it, twice.

    Args:
        normal: x to M x, for tensors of the shape of `start`.
        start: x; a vector with all directions in it, not zero.
        steps: k, the applications of M; no more than entries of x are used.

    Returns:
        A vector of norm 1, of the shape of `start`.

    Example:
        >>> scales = torch.tensor([1.0, 3.0, 2.0])
        >>> leading_direction(lambda x: scales**2 * x, torch.ones(3), 3).abs().round(decimals=4)
        tensor([0., 1., 0.])
    """
    steps = min(steps, start.numel())
    basis = start.new_zeros(steps, start.numel())
    small = start.new_zeros(steps, steps)  # M in the basis, above its diagonal
    basis[0] = start.flatten() / start.norm()
    for k in range(steps):
        vector = normal(basis[k].view(start.shape)).flatten()
        size = vector.norm()
        for _ in range(2):
            shares = basis[: k + 1] @ vector
            vector = vector - shares @ basis[: k + 1]
            small[: k + 1, k] += shares
        if k + 1 < steps:
            rest = vector.norm()
            # Once the space is full there is nothing new but rounding.
            new = rest > 10 * torch.finfo(rest.dtype).eps * size
            basis[k + 1] = torch.where(new, vector / rest, 0)
    direction = _leading_eigenvector(small.triu() + small.triu(1).T) @ basis
    norm = direction.norm()
    return torch.where(norm > 0, direction / norm, basis[0]).view(start.shape)


def _leading_eigenvector(matrix: Tensor) -> Tensor:
    """Up to its length, by a power of the matrix: a decomposition would wait for a GPU."""
    for _ in range(_SQUARINGS):
        matrix = matrix / matrix.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
        matrix = matrix @ matrix
    longest = matrix.diagonal().argmax()[None]
    return matrix.index_select(1, longest)[:, 0]
