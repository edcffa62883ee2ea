"""SLL: kernels rescaled on the side of their outputs, the hidden layer of a residual layer."""

from typing import final

import torch
from torch import Tensor, nn

from taut.linalg.rescaling import (
    gram_taps,
    hidden_scale,
    inverse_roots,
    moduli,
    weighted_row_sums,
)
from taut.parametrizations._hidden_kernel import AbstractHiddenKernel

_RANGE = 8.0
"""Logarithms of q lie between minus this and this."""


@final
class SLL(AbstractHiddenKernel):
    r"""1-Lipschitz kernel for residual layers: a free kernel with each output rescaled.

    The kernel is :math:`C = T^{-1/2} W`, for any raw kernel W. With :math:`T_i = \sum_j \sum_\tau
    |(W W^*)_{ij, \tau}| \, q_j / q_i`, i and j over the outputs, :math:`W W^* \preceq T` for every
    q > 0 (diagonal dominance), so that :math:`C = T^{-1/2} W` has norm at most 1. In
    :class:`taut.nn.PotentialResidual2d` the hidden scale is :math:`\sqrt T`: the layer is :math:`x
    - 2 W^* T^{-1} \sigma(W x + b)`, the SDP-based Lipschitz layer.

    Guarantee: every singular value of the operator is at most 1, on every input size, with circular
        or zero padding, any stride, dilation and groups. The kernel does not depend on the size of
        the raw one: leave weight decay off.
    Cost: one correlation of the kernel with itself, :math:`c_{out}^2 c_{in} k^{2 d}` products.

    Reference:
        Araujo, Havens, Delattre, Allauzen, Hu (2023), *A Unified Algebraic Perspective on Lipschitz
        Neural Networks*; arXiv:2303.03169. The scale for strides is ours.

    Example:
        >>> layer = taut.nn.PotentialResidual2d(4, 8, 3, parametrization=taut.SLL)
        >>> layer(torch.zeros(1, 4, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    reference = "Araujo et al. 2023, arXiv:2303.03169"
    raw_q: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel before it is rescaled, and the weights of its outputs."""
        return {"raw_kernel": self.kernel_shape(), "raw_q": (self.out_channels,)}

    def reset_parameters(self) -> None:
        """Draw the raw kernel anew, and take equal weights."""
        self.draw_kernel()
        nn.init.zeros_(self.raw_q)

    def scaled_weight(self) -> tuple[Tensor, Tensor]:
        r"""The kernel, and :math:`\sqrt T`."""
        size, raw, kernel = self.sized_kernel()
        hidden = moduli(gram_taps(kernel.transpose(1, 2)))
        q = (_RANGE * torch.tanh(self.raw_q / _RANGE)).exp().unflatten(0, (self.groups, -1))
        factors = inverse_roots(weighted_row_sums(hidden, q)).flatten()
        weight = raw * factors.reshape(-1, *[1] * (raw.dim() - 1))
        return weight, hidden_scale(size, 1 / factors)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The weight itself, which only one with orthogonal rows of norm 1 is the kernel of."""
        return {"raw_kernel": weight, "raw_q": torch.zeros_like(self.raw_q)}
