"""Cayley transforms of the symbol at each frequency."""

import math
from typing import final

import torch
from torch import Tensor, nn

from taut.linalg.unitary import cayley
from taut.parametrizations._spectral import AbstractSpectral

_LIMIT = 16.0
"""Of the norm of a normalised kernel: beyond it rounding would count."""


@final
class Cayley(AbstractSpectral):
    r"""Orthogonal kernel of the size of the input: a Cayley transform at each frequency.

    At each frequency, :math:`Q = (I - A) (I + A)^{-1}` with a skew-Hermitian A, the difference of
    the symbol of :math:`g W / \|W\|_F` and its adjoint; see :func:`taut.linalg.unitary.cayley` for
    channels of input and output that differ. The kernel W is normalised in each group, and the
    scale g is a raw tensor, made in the constructor; its effect saturates at 16. At g = 0 the layer
    copies channels; it starts near that. No Q has the eigenvalue -1.

    Guarantee: orthogonal (semi-orthogonal where channels of input and output differ) on the
        periodic domain of the input, for every finite raw tensor.
    Cost: a linear system of c^3 operations at half of the :math:`n^d` frequencies, and c^2 products
        a frequency to apply it.

    Reference:
        Trockman, Kolter (2021), *Orthogonalizing Convolutional Layers with the Cayley Transform*,
        ICLR; arXiv:2104.07167. The limit of the scale, without which rounding lifts the norm above
        1 for large raw tensors, is ours.

    Example:
        >>> layer = taut.nn.Conv2d(3, 6, 3, parametrization=Cayley, bias=False)
        >>> x = torch.randn(1, 3, 9, 9)
        >>> torch.allclose(layer(x).norm(), x.norm())
        True
    """

    guarantee = "orthogonal"
    reference = "Trockman, Kolter 2021, arXiv:2104.07167"
    raw_kernel: Tensor
    raw_scale: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel before it is normalised, and the scale of each group."""
        return {"raw_kernel": self.raw_kernel_shape, "raw_scale": (self.groups,)}

    def reset_parameters(self) -> None:
        """Draw the kernel anew, and set the scale to 1/2."""
        nn.init.normal_(self.raw_kernel, std=1 / math.sqrt(self.raw_kernel[0].numel()))
        nn.init.constant_(self.raw_scale, 0.5)

    def symbol(self, size: tuple[int, ...]) -> Tensor:
        """Cayley's transform at each frequency."""
        return self.per_frequency(cayley, self._normalised(), size)

    def _normalised(self) -> Tensor:
        """The kernels of the groups, with a norm of their scales."""
        kernel = self.raw_kernel.unflatten(0, (self.groups, -1))
        axes = tuple(range(1, kernel.dim()))
        largest = kernel.detach().abs().amax(axes, keepdim=True)
        power = torch.where(largest > 0, torch.exp2(largest.log2().round()), 1.0)
        kernel = kernel / power
        # The constant only counts for zeros, where it keeps the gradient finite.
        norm = (kernel.square().sum(axes, keepdim=True) + torch.finfo(kernel.dtype).eps ** 2).sqrt()
        scale = _LIMIT * torch.tanh(self.raw_scale / _LIMIT)
        return (kernel / norm * scale.reshape(norm.shape)).flatten(0, 1)
