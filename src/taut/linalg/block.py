"""Block convolution: kernels whose taps are matrices, multiplied by orthogonal two-tap steps."""

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.products import matmul


def grow(
    taps: Float[Tensor, "g *grid rows c"],
    basis: Float[Tensor, "g c r"],
    axis: int,
    *,
    flipped: bool = False,
) -> Float[Tensor, "g *longer rows c"]:
    r"""Block convolution of kernels with two-tap steps :math:`[P, I-P]` along one axis of the grid.

    With :math:`P = R R^\top`, R the orthonormal columns of `basis` (maybe none), the result has the
    taps :math:`K_j P + K_{j-1} (I - P)`: one product per tap that is already there, in factored
    form, so that P itself is never built. If `flipped` the step is :math:`[I-P, P]`. It is an
    orthogonal convolution: the result has the singular values of `taps`. Groups g do not mix.

    Cost: `4 * g * taps * rows * c * r` multiplications and additions.

    Reference:
        Li et al. (2019), section 4.1 and appendix B; arXiv:1911.00937. Multiplied out one axis
        at a time here, not as 2x2 blocks: 13 instead of over 60 products for a 3x3 kernel.
    """
    inside = matmul(matmul(taps.flatten(1, -2), basis), basis.mT).reshape(taps.shape)
    outside = taps - inside
    early, late = (outside, inside) if flipped else (inside, outside)
    axis += 1  # behind the groups
    others = taps.shape[axis] - 1
    first, following = early.split((1, others), axis)
    preceding, last = late.split((others, 1), axis)
    return torch.cat((first, following + preceding, last), axis)
