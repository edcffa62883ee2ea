"""Kernels of convolutions that are minus their adjoint."""

from typing import Any, final

import torch
from torch import Tensor

from taut.parametrizations import AbstractParametrization

_BELOW = 1 - 2.0**-18
"""Covers the rounding of sums of rows and of their roots, in float32."""


@final
class SkewKernel(AbstractParametrization):
    r"""A kernel L with :math:`L_{-t} = -L_t^\top`, bit for bit, whose convolution has a small norm.

    :math:`L_t = (M_t - M_{-t}^\top) \circ D_i D_j` of a raw kernel M, with
    :math:`D_i = \max(1, s_i / r)^{-1/2}`. Proof of the norm: let A be the moduli of the first
    factor, summed over the taps, and :math:`s_i` the sums of its rows. A is symmetric and >= 0, so
    that :math:`A \preceq \mathrm{diag}(s)` and
    :math:`D A D \preceq \mathrm{diag}(D_i^2 s_i) \preceq r`. A convolution has at most the norm of
    the moduli of its kernel, summed over the taps, with circular padding and with zeros.

    The factors are one matrix, symmetric in floats, too; row after row they would not leave L skew.

    Guarantee: L is exactly skew, and its convolution has norm at most `radius`.

    Args:
        channels: of the input and of the output.
        kernel_size: odd sizes.
        radius: r.
        options: groups, device and dtype.
    """

    guarantee = "none"
    reference = "Singla, Feizi 2021, arXiv:2105.11417; factors of both sides are ours"
    raw_kernel: Tensor

    def __init__(
        self, channels: int, kernel_size: tuple[int, ...], *, radius: float, **options: Any
    ) -> None:
        self.radius = radius
        super().__init__(channels, channels, kernel_size, **options)

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel M."""
        channels = self.in_channels // self.groups
        return {"raw_kernel": (self.in_channels, channels, *self.kernel_size)}

    def reset_parameters(self) -> None:
        """Draw M anew: normally distributed, with sums of rows of L of about 1: a small L."""
        with torch.no_grad():
            self.raw_kernel.normal_(std=0.9 / self.raw_kernel[0].numel())

    def weight(self) -> Tensor:
        """The kernel L."""
        raw = self.raw_kernel
        # Huge numbers are scaled first, so that no sum overflows.
        largest = raw.detach().abs().amax().clamp(min=1.0)
        scale = torch.exp2(largest.log2().floor())
        raw = (raw / scale).unflatten(0, (self.groups, -1))  # (g, c, c, *taps)
        skew = raw - raw.transpose(1, 2).flip([3 + axis for axis in range(len(self.kernel_size))])
        radius = self.radius * _BELOW
        sums = skew.abs().flatten(3).sum((2, 3))
        factors = torch.maximum(sums, radius / scale).rsqrt()  # (g, c)
        products = radius * (factors[:, :, None] * factors[:, None])
        products = products.reshape(*products.shape, *[1] * len(self.kernel_size))
        return (skew * products).flatten(0, 1)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """Half of a kernel that is skew and small enough."""
        return {"raw_kernel": weight / 2}
