r"""Bounds of :math:`K^* K` by sums of absolute values, for kernels that are divided by them.

Kernels here are of stride 1, `(g, o, i, *taps)`, one for each of g groups: see
:func:`taut.linalg.embedding.polyphase` for strides.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.geometry import CONVOLUTIONS

MOST_AXES = 3
"""Of kernels."""

LARGEST_SCALE = 2.0**16
"""Scales of hidden channels lie between its inverse and this."""


def magnitude(raw: Tensor) -> Tensor:
    """A power of two near the largest entry; 1 for zeros."""
    largest = raw.detach().abs().amax()
    tiny = torch.finfo(raw.dtype).tiny
    return torch.where(largest < tiny, 1.0, torch.exp2(largest.clamp(min=tiny).log2().round()))


def hidden_scale(size: Tensor, bounds: Tensor) -> Tensor:
    """Size times bounds, kept where neither it nor its gradient overflows."""
    # Of half precision, whose numbers end at 2^16, less.
    largest = min(LARGEST_SCALE, 2.0 ** (math.frexp(torch.finfo(size.dtype).max)[1] // 2 - 1))
    return (size.clamp(largest**-2, largest**2) * bounds).clamp(1 / largest, largest)


def gram_taps(kernel: Float[Tensor, "g o i ..."]) -> Float[Tensor, "g i i ..."]:
    r"""The kernel of :math:`K^* K`, with 2 k - 1 taps for each k."""
    (groups, _, inputs), taps = kernel.shape[:3], kernel.shape[3:]
    if not taps:
        return kernel.mT @ kernel
    fields = kernel.permute(2, 0, 1, *range(3, kernel.dim())).flatten(1, 2)
    weight = kernel.transpose(1, 2).flatten(0, 1)
    pads = [k - 1 for k in taps]
    shifts = CONVOLUTIONS[len(taps)](fields, weight, padding=pads, groups=groups)
    return shifts.unflatten(1, (groups, inputs)).transpose(0, 1).transpose(1, 2)


def moduli(taps: Float[Tensor, "g i j ..."]) -> Float[Tensor, "g i j"]:
    """Absolute values, summed over the taps."""
    return taps.abs().flatten(3).sum(3) if taps.dim() > 3 else taps.abs()


def inverse_roots(sums: Tensor) -> Tensor:
    r""":math:`T^{-1/2}` of sums T, rounded down; what is not above 0 keeps the factor 1."""
    # What the sum and the root lose to rounding must not lift the norm above 1.
    numbers = torch.finfo(sums.dtype)
    roots = (sums * (1 + 4 * numbers.eps)).clamp(min=numbers.tiny).rsqrt()
    return torch.where(sums < numbers.tiny, 1.0, roots)


def weighted_row_sums(matrix: Float[Tensor, "g i i"], q: Float[Tensor, "g i"]) -> Tensor:
    r""":math:`T_i = \sum_j A_{ij} q_j / q_i`, of matrices A >= 0 and positive q.

    For symmetric M with :math:`|M| \le A` entry by entry, :math:`M \preceq \mathrm{diag}(T)`.
    """
    return (matrix @ q[..., None])[..., 0] / q


def doubled_norms(kernel: Float[Tensor, "g o i ..."]) -> Float[Tensor, " g"]:
    r"""Differentiable bound of the norm of each kernel, on all periodic domains and with zeros.

    With :math:`G = K^* K`, :math:`G_2 = G * G` and :math:`A = \sum_\tau |G_{2, \tau}|`,
    :math:`\|K\|^4 = \|G_2\| \le \rho(A)`, and :math:`\rho(A)^4` is at most the largest sum of a
    row of :math:`A^4`. Some 1.4 to 1.6 times the norm of Gaussian kernels in 2-D, and the norm of
    orthogonal ones. Kernels are 0, or have an entry near 1.
    """
    small = kernel.transpose(1, 2) if kernel.shape[1] < kernel.shape[2] else kernel
    matrix = moduli(gram_taps(gram_taps(small)))
    # Zeros alone have a finite bound, and a finite gradient.
    size = matrix.detach().sum(2).amax(1).clamp(min=0.1)
    rows = torch.ones_like(matrix[..., :1])
    for _ in range(4):
        rows = (matrix / size[:, None, None]) @ rows  # of the powers of A
    numbers = torch.finfo(rows.dtype)
    largest = rows[..., 0].amax(1).clamp(min=numbers.tiny)
    return (size * largest.pow(1 / 4)).pow(1 / 4) * (1 + 8 * numbers.eps)
