"""Orthonormal bases of the symbol at each frequency."""

from typing import final

from torch import Tensor

from taut.linalg.unitary import unitary_basis
from taut.parametrizations._spectral import AbstractKernelSpectral


@final
class SpectralQR(AbstractKernelSpectral):
    r"""Orthogonal kernel of the size of the input: the Q factor at each frequency.

    At each frequency Q of :math:`\hat V = Q R`, with a real diagonal of R, >= 0: Gram and Schmidt's
    basis of the columns, or of the rows where there are fewer of them. It starts near the identity.

    Guarantee: orthogonal (semi-orthogonal where channels of input and output differ) on the
        periodic domain of the input, for every finite raw kernel.
    Cost: a QR factorisation of c^3 operations at half of the :math:`n^d` frequencies, and c^2
        products a frequency to apply it.

    Reference:
        Ours, for comparison: the cheapest exact map of this family that reaches every orthogonal
        matrix. See :class:`taut.LOT` for the nearest one.

    Example:
        >>> layer = taut.nn.Conv1d(2, 4, 3, parametrization=SpectralQR, bias=False)
        >>> x = torch.randn(1, 2, 9)
        >>> torch.allclose(layer(x).norm(), x.norm())
        True
    """

    reference = "complex QR at each frequency"

    def symbol(self, size: tuple[int, ...]) -> Tensor:
        """The bases."""
        return self.per_frequency(unitary_basis, self.raw_kernel, size)
