"""CPL: kernels divided by a proven bound of their norm, the hidden layer of a residual layer."""

from typing import final

from torch import Tensor

from taut.linalg.rescaling import doubled_norms, hidden_scale
from taut.parametrizations._hidden_kernel import AbstractHiddenKernel


@final
class CPL(AbstractHiddenKernel):
    r"""1-Lipschitz kernel for residual layers: a free kernel divided by a proven bound of its norm.

    With the free kernel W, the weight is W / bound. The bound is proven and differentiable: with
    :math:`G = W^* W`, :math:`\|W\|^4 = \|G * G\|` is at most the spectral radius of the absolute
    values of :math:`G * G`, summed over the taps. In :class:`taut.nn.PotentialResidual2d` the bound
    is the hidden scale as well: the layer is :math:`x - 2 W^* \sigma(W x + b) / \mathrm{bound}^2`,
    the convex potential layer.

    Guarantee: every singular value of the operator is at most 1, on every input size, with circular
        or zero padding, any stride, dilation and groups. Orthogonal kernels stay as they are. The
        paper divides by an estimate from power iteration, which is below the norm.
    Cost: with c the smaller number of channels, :math:`c^2` products for each of the
        :math:`c (2 k - 1)^d (4 k - 3)^d` taps of a product of Gram kernels: for wide layers more
        than the convolution itself on small images. :class:`taut.SLL` costs less.

    Reference:
        Meunier, Delattre, Araujo, Allauzen (2022), *A Dynamical System Perspective for Lipschitz
        Neural Networks*; arXiv:2110.12690.

    Example:
        >>> layer = taut.nn.PotentialResidual2d(4, 8, 3, parametrization=taut.CPL)
        >>> layer(torch.zeros(1, 4, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    reference = "Meunier et al. 2022, arXiv:2110.12690"

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel before it is divided."""
        return {"raw_kernel": self.kernel_shape()}

    def reset_parameters(self) -> None:
        """Draw the raw kernel anew."""
        self.draw_kernel()

    def scaled_weight(self) -> tuple[Tensor, Tensor]:
        """The kernel, and the bound for each output."""
        size, raw, kernel = self.sized_kernel()
        bounds = doubled_norms(kernel).repeat_interleave(self.out_channels // self.groups)
        weight = raw / bounds.reshape(-1, *[1] * (raw.dim() - 1))
        return weight, hidden_scale(size, bounds)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The weight itself, which only one with orthogonal rows of norm 1 is the kernel of."""
        return {"raw_kernel": weight}
