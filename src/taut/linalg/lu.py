"""LU decompositions of matrices in a batch, right on several threads.

On a CPU with several threads torch 2.13 fails at batches of matrices with more than 128 columns: it
raises ("Pivots given to lu_solve"), or determinants are wrong. Such matrices are decomposed one by
one.
"""

import torch
from torch import Tensor

_MOST_COLUMNS = 128


def divided(b: Tensor, a: Tensor) -> Tensor:
    """The matrices X of X A = B, for regular A; it does not wait for the device to check that.

    Example:
        >>> divided(torch.eye(2), 2 * torch.eye(2)).diagonal()
        tensor([0.5000, 0.5000])
    """
    if _may_be_batched(a):
        return torch.linalg.solve_ex(a, b, left=False)[0]
    pairs = zip(a.flatten(0, -3), b.flatten(0, -3), strict=True)
    solved = [torch.linalg.solve_ex(one, other, left=False)[0] for one, other in pairs]
    return torch.stack(solved).unflatten(0, a.shape[:-2])


def determinants(a: Tensor) -> Tensor:
    """The determinant of each matrix.

    Example:
        >>> determinants(2 * torch.eye(2)[None])
        tensor([4.])
    """
    if _may_be_batched(a):
        return torch.linalg.det(a)
    every = [torch.linalg.det(one) for one in a.flatten(0, -3)]
    return torch.stack(every).unflatten(0, a.shape[:-2])


def _may_be_batched(a: Tensor) -> bool:
    return a.dim() == 2 or a.shape[-1] <= _MOST_COLUMNS or a.device.type != "cpu"
