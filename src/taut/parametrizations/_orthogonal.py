"""Orthogonal matrices by an exact basis."""

from typing import final

import torch
from torch import Tensor

from taut.linalg.bases import basis_product
from taut.linalg.one_route import takes_one_route
from taut.linalg.stiefel import own_product
from taut.linalg.windows import Windows
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import kept_basis, read_basis
from taut.parametrizations._kept import is_own_basis


@final
class Orthogonal(AbstractParametrization):
    r"""Semi-orthogonal matrix: the Q factor of a free matrix, transposed if wide.

    Guarantee: :math:`W W^\top = I` or :math:`W^\top W = I`, whichever the shape allows, for every
        finite raw matrix (see :func:`taut.linalg.bases.orthonormal_basis`).
    Cost: O(max * min^2) per read, with max and min of the two feature counts.

    Raises:
        ValueError: if it gets a kernel size: use :class:`taut.BCOP` for kernels.

    Reference:
        Exact bases in place of the Bjorck iterations of Li et al. (2019), arXiv:1911.00937.

    Example:
        >>> w = Orthogonal(5, 3).weight()
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-6)
        True
    """

    guarantee = "orthogonal"
    reads_bases = True
    reference = "exact orthonormal basis (QR)"
    matrices_only = True
    raw_matrix: Tensor

    def check_sizes(self) -> None:
        """Dense layers have no groups."""
        self.refuse_groups()

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """One matrix, the longer side first."""
        narrow, wide = sorted((self.in_channels, self.out_channels))
        return {"raw_matrix": (wide, narrow)}

    def weight(self) -> Tensor:
        """The matrix, `(out_channels, in_channels)`."""
        basis = read_basis(self.raw_matrix)
        return basis.mT if self.out_channels < self.in_channels else basis

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The matrix itself, which must be semi-orthogonal."""
        return {"raw_matrix": weight.mT if self.out_channels < self.in_channels else weight}

    def transform(self, x: Tensor, bias: Tensor | None, windows: Windows | None) -> Tensor | None:
        """Apply the dense layer through the factors of the basis."""
        if kept_basis(self.raw_matrix) is not None or torch.compiler.is_exporting():
            return None  # the product is laid out by the size of the batch, which may be open
        own = is_own_basis(self.raw_matrix)
        if not own and takes_one_route(self.raw_matrix):
            return None  # its factors are found by questions to the device
        wide = self.out_channels >= self.in_channels
        y = (own_product if own else basis_product)(x, self.raw_matrix, transposed=wide)
        # A copy: in-place operations must not change what is saved for the gradient.
        return y.clone() if bias is None else y + bias
