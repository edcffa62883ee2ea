"""CPL: kernels divided by a proven bound of their norm, the hidden layer of a residual layer."""

import math
from typing import final

import torch
from torch import Tensor

from taut.linalg.embedding import polyphase
from taut.linalg.rescaling import MOST_AXES, doubled_norms, hidden_scale, magnitude
from taut.parametrizations._base import AbstractParametrization


@final
class CPL(AbstractParametrization):
    r"""1-Lipschitz kernels W / bound for residual layers, of any raw kernel W.

    The bound is proven and differentiable: with :math:`G = W^* W`, :math:`\|W\|^4 = \|G * G\|` is
    at most the spectral radius of the absolute values of :math:`G * G`, summed over the taps. In
    :class:`taut.nn.PotentialResidual2d` the bound is the hidden scale as well: the layer is
    :math:`x - 2 W^* \sigma(W x + b) / \mathrm{bound}^2`, the convex potential layer.

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

    guarantee = "lipschitz"
    reference = "Meunier et al. 2022, arXiv:2110.12690"
    raw_kernel: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel before it is divided."""
        per_group = self.in_channels // self.groups
        return {"raw_kernel": (self.out_channels, per_group, *self.kernel_size)}

    def check_sizes(self) -> None:
        """Kernels have at most 3 axes."""
        if len(self.kernel_size) > MOST_AXES:
            raise ValueError(f"`kernel_size` must have at most 3 axes; got {self.kernel_size}.")

    def reset_parameters(self) -> None:
        """Draw the raw kernel anew."""
        with torch.no_grad():
            self.raw_kernel.normal_(std=1 / math.sqrt(max(1, self.raw_kernel[0].numel())))

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels // groups, *kernel_size)`."""
        return self.scaled_weight()[0]

    def scaled_weight(self) -> tuple[Tensor, Tensor]:
        """The kernel, and the bound for each output."""
        size = magnitude(self.raw_kernel)
        raw = self.raw_kernel / size
        phases = polyphase(raw, self.stride, (1,) * len(self.stride))
        bounds = doubled_norms(phases.unflatten(0, (self.groups, -1)))
        bounds = bounds.repeat_interleave(self.out_channels // self.groups)
        weight = raw / bounds.reshape(-1, *[1] * (raw.dim() - 1))
        return weight, hidden_scale(size, bounds)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The weight itself, which only one with orthogonal rows of norm 1 is the kernel of."""
        return {"raw_kernel": weight}
