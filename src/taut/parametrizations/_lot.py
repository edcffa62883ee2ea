"""LOT: the polar factor of the symbol at each frequency."""

from typing import final

from torch import Tensor

from taut.linalg.unitary import polar_factor
from taut.parametrizations._spectral import AbstractKernelSpectral


@final
class LOT(AbstractKernelSpectral):
    r"""Orthogonal kernel of the size of the input: the polar factor at each frequency.

    At each frequency :math:`Q = (\hat V \hat V^*)^{-1/2} \hat V`, the unitary matrix nearest to
    :math:`\hat V`; of a matrix, its polar factor. It starts near the identity, since the raw kernel
    starts near one that copies channels, and does not depend on the scale of the raw kernel.

    Guarantee: orthogonal (semi-orthogonal where channels of input and output differ) on the
        periodic domain of the input, for every finite raw kernel.
    Cost: a singular value decomposition of c^3 operations at half of the :math:`n^d` frequencies,
        and c^2 products a frequency to apply it. Iterations of Newton (as published) lose
        orthogonality for ill-conditioned kernels; this does not.

    Reference:
        Xu, Li, Li (2022), *LOT: Layer-wise Orthogonal Training on Improving l2 Certified
        Robustness*; arXiv:2210.11620. The decomposition in place of its iteration is ours.

    Example:
        >>> layer = taut.nn.Conv2d(3, 3, 3, parametrization=LOT, bias=False)
        >>> x = torch.randn(1, 3, 7, 5)
        >>> torch.allclose(layer(x).norm(), x.norm())
        True
    """

    reference = "Xu, Li, Li 2022, arXiv:2210.11620"

    def symbol(self, size: tuple[int, ...]) -> Tensor:
        """The polar factors."""
        return self.per_frequency(polar_factor, self.raw_kernel, size)
