"""RK-L2NE: reshaped kernel divided by a cheap bound of its norm."""

from typing import final

import torch
from torch import Tensor

from taut.linalg.products import product
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._reshaped import as_kernel, as_matrix, overlap, reshaped_sides


@final
class RKL2NE(AbstractParametrization):
    r"""1-Lipschitz kernel: a free kernel divided by a norm bound from its Gram matrices.

    .. math:: K = A \big/ \sqrt{\textstyle\prod_i \lceil k_i / s_i \rceil \cdot
        \min(\|A A^\top\|_\infty, \|A^\top A\|_\infty)}

    A is the raw kernel as a matrix `(out_channels, in_channels * taps)`, and
    :math:`\|M\|_\infty = \max_i \sum_j |M_{ij}|` the norm of M in the maximum norm.

    Proof: the square of the spectral norm of A is the largest eigenvalue of :math:`A A^\top` and of
    :math:`A^\top A`. If :math:`M x = \lambda x`, every norm of M is at least
    :math:`\|M x\| / \|x\| = |\lambda|`; hence A over the root has norm at most 1. The convolution
    applies A to the patches of the input. A position is in at most :math:`\prod_i \lceil k_i / s_i
    \rceil` patches, so the map to patches has at most the root of that as its norm; the kernel is
    divided by it, too.

    Guarantee: every singular value of the operator is at most 1, with circular or zero padding.
        Loose: often much less, so that gradients shrink.
    Cost: two Gram matrices of the reshaped kernel, O(max * min * (max + min)) for its two sides;
        their gradient costs only O(max * min).

    Reference:
        Qian, Wegman (2019), *L2-Nonexpansive Neural Networks*, arXiv:1802.07896; as in Li et al.
        (2019), arXiv:1911.00937, appendix, "RK-L2NE".

    Example:
        >>> layer = taut.nn.Conv2d(3, 8, 3, parametrization=RKL2NE)
        >>> float(taut.lipschitz_bound(layer, (3, 16, 16))) < 1 + 1e-5
        True
    """

    guarantee = "lipschitz"
    reference = "Qian & Wegman 2019, arXiv:1802.07896"
    raw_matrix: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The reshaped kernel before its division, the longer side first."""
        return {"raw_matrix": reshaped_sides(self)}

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        # A constant factor changes neither the quotient nor its gradient. This one keeps squares
        # in range, and at least 1 except for a zero matrix: the clamp is for that alone.
        largest = self.raw_matrix.detach().abs().amax((-2, -1), keepdim=True)
        matrix = self.raw_matrix / largest.clamp(min=torch.finfo(largest.dtype).tiny)
        square = torch.minimum(_gram_norm(matrix), _gram_norm(matrix.mT)).clamp(min=1)
        return as_kernel(self, matrix / square.sqrt()) / overlap(self)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The kernel itself: dividing a kernel of this method changes nothing."""
        return {"raw_matrix": as_matrix(self, weight)}


def _gram_norm(a: Tensor) -> Tensor:
    r"""(*b, 1, 1): :math:`\|A A^\top\|_\infty`, with the gradient of its largest row alone."""
    with torch.no_grad():
        gram = product(a, a.mT)
        row = gram.abs().sum(-1, keepdim=True).argmax(-2, keepdim=True)  # (*b, 1, 1)
        signs = gram.take_along_dim(row, -2).mT.sign()  # (*b, m, 1)
    largest = a.take_along_dim(row, -2)  # (*b, 1, n)
    return (largest * (signs * a).sum(-2, keepdim=True)).sum(-1, keepdim=True)
