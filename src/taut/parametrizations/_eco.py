"""ECO: a few taps, orthogonal where their dilation fits the size of the input."""

from typing import final

from torch import Tensor

from taut.linalg.unitary import polar_factor
from taut.parametrizations._spectral import (
    AbstractKernelSpectral,
    dilated_symbol,
    kernel_of_symbol,
)


@final
class ECO(AbstractKernelSpectral):
    r"""Orthogonal kernel of few taps, dilated to the size of the input.

    The symbol of a raw kernel of k taps an axis is made unitary at the :math:`k^d` frequencies of a
    periodic domain of k positions. Dilated by n / k on a domain of n positions, no other
    frequencies occur, so that the convolution is orthogonal there: its taps are spread over the
    whole input. Each frequency takes the polar factor. A layer finds the dilation itself; one with
    a `dilation` of its own takes the multiple of it that fits.

    Guarantee: orthogonal (semi-orthogonal where channels of input and output differ) on periodic
        domains whose sizes k divides; the layer refuses others. Without the dilation, or with zeros
        around the input in place of the periodic domain, the norm of the same kernel is above 1.
    Cost: a singular value decomposition of c^3 operations at :math:`k^d / 2` frequencies, whatever
        the size of the input; the convolution itself has k taps an axis. Frozen for a size it is a
        plain dilated convolution.

    Raises:
        ValueError: (in forward) if the kernel size does not divide the size of the input.

    Reference:
        Yu et al. (2022), *Constructing Orthogonal Convolutions in an Explicit Manner*, ICLR.

    Example:
        >>> layer = taut.nn.Conv2d(3, 3, 3, parametrization=ECO, bias=False)
        >>> x = torch.randn(1, 3, 9, 6)
        >>> torch.allclose(layer(x).norm(), x.norm())
        True
    """

    reference = "Yu et al. 2022, ICLR"

    def symbol(self, size: tuple[int, ...]) -> Tensor:
        """The polar factors at the frequencies of k positions, each as often as it occurs."""
        points = self._points(size)
        dilation = tuple(n // k for n, k in zip(size, points, strict=True))
        return dilated_symbol(self._own(), points, dilation, size)

    def taps(self, size: tuple[int, ...]) -> Tensor:
        """The kernel, which is dilated to the size."""
        return kernel_of_symbol(self._own(), self._points(size))

    def _own(self) -> Tensor:
        """The symbol on the domain of k positions."""
        return self.per_frequency(polar_factor, self.raw_kernel, self.folded_size)

    def _points(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The number of positions k, per axis, which must divide the size."""
        points = self.folded_size
        if any(n % k for n, k in zip(size, points, strict=True)):
            sizes = tuple(n * s for n, s in zip(size, self.stride, strict=True))
            raise ValueError(
                "`kernel_size` must divide the size of the input for ECO (with the zeros of its "
                "padding, and over its common divisor with the dilation); got "
                f"kernel_size={self.kernel_size}, size={sizes}."
            )
        return points
