"""RKO: reshaped kernel, orthonormalised."""

from typing import final

from torch import Tensor

from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import read_basis
from taut.parametrizations._orthogonal import Orthogonal
from taut.parametrizations._reshaped import as_kernel, as_matrix, overlap, reshaped_sides


@final
class RKO(AbstractParametrization):
    r"""1-Lipschitz kernel: an orthonormal reshaped kernel divided by its patch overlap.

    The kernel reshaped to `(out_channels, in_channels * taps)` is semi-orthogonal. Every input
    position is in at most :math:`p = \prod_i \lceil k_i / s_i \rceil` patches, so the map from the
    input to its patches has norm :math:`\sqrt p` at most (k for a square kernel of stride 1); the
    kernel is divided by it. Each group has a kernel of its own.

    Guarantee: every singular value of the operator is at most 1, with circular or zero padding.
        Not orthogonal where patches overlap: gradients may shrink.
    Cost: one orthonormal basis of a `(max, min)` matrix of the two sides of the reshaped kernel.

    Reference:
        Li et al. (2019), section 3 and appendix, "RKO"; arXiv:1911.00937. Exact bases instead of
        Bjorck iterations.

    Example:
        >>> kernel = RKO(2, 3, (3, 3)).weight()
        >>> matrix = 3 * kernel.reshape(3, -1)
        >>> torch.allclose(matrix @ matrix.T, torch.eye(3), atol=1e-6)
        True
    """

    guarantee = "lipschitz"
    reads_bases = True
    reference = "Li et al. 2019, arXiv:1911.00937, section 3"
    raw_matrix: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The reshaped kernel, the longer side first."""
        return {"raw_matrix": reshaped_sides(self)}

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        return as_kernel(self, read_basis(self.raw_matrix)) / overlap(self)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The kernel as a matrix, which must be semi-orthogonal times the overlap."""
        return {"raw_matrix": as_matrix(self, weight) * overlap(self)}

    @classmethod
    def dense_as(cls) -> type[AbstractParametrization]:
        """:class:`taut.Orthogonal`, which is what this method is on a matrix."""
        return Orthogonal
