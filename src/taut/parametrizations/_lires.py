"""LiRes: plain kernels around the identity."""

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from taut._arguments import whole
from taut.parametrizations._base import AbstractParametrization


@final
class LiRes(AbstractParametrization):
    r"""Kernel of a linear residual block: the identity plus a free kernel.

    .. math:: K = \delta + \gamma W / \sqrt{depth}

    with one :math:`\gamma` for each output channel, and :math:`\delta` the kernel that copies
    channel i to channel i at its centre tap, as far as there are as many of both. A deep chain of
    such convolutions and activations starts close to the identity without skip connections.

    Guarantee: none. The norm is what training makes it: :func:`taut.lipschitz_bound` proves it from
        the kernel, and certificates divide by it. Losses such as :class:`taut.losses.EMMA` keep it
        small, with the gradient of :class:`taut.losses.Margins`; so does weight decay.
    Cost: one product of entries.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix.
        depth: how many such layers the model has.
        options: stride, groups, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if `depth` is not a positive integer.

    Reference:
        Hu et al. (2023), *Unlocking Deterministic Robustness Certification on ImageNet*,
        arXiv:2301.12549, LiResNet. Theirs has as many outputs as inputs and stride 1. They train
        with an estimate of the norm by power iteration, and publish it as the bound.

    Example:
        >>> layer = taut.nn.Conv2d(4, 4, 3, parametrization=LiRes)
        >>> 0.5 < float(taut.lipschitz_bound(layer, (4, 8, 8))) < 1.5
        True
    """

    guarantee = "none"
    reference = "Hu et al. 2023, arXiv:2301.12549"
    raw_kernel: Tensor
    raw_gain: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        depth: int = 1,
        **options: Any,
    ) -> None:
        self.depth = whole("depth", depth)
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The free kernel W, and gamma."""
        per_group = self.in_channels // self.groups
        kernel = (self.out_channels, per_group, *self.kernel_size)
        return {"raw_kernel": kernel, "raw_gain": (self.out_channels,)}

    def reset_parameters(self) -> None:
        """Draw W anew: normally distributed, of deviation 1 / (c k); gamma is 1."""
        nn.init.normal_(self.raw_kernel, std=1 / self.raw_kernel[0].numel())
        nn.init.ones_(self.raw_gain)

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels // groups, *kernel_size)`."""
        gain = self.raw_gain.reshape(-1, *[1] * (self.raw_kernel.dim() - 1))
        return self._identity() + gain * self.raw_kernel / math.sqrt(self.depth)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The free kernel, with gamma = 1."""
        kernel = (weight - self._identity().to(weight)) * math.sqrt(self.depth)
        return {"raw_kernel": kernel, "raw_gain": torch.ones_like(self.raw_gain)}

    def _identity(self) -> Tensor:
        """The kernel that copies channels within each group."""
        inputs, outputs = (n // self.groups for n in (self.in_channels, self.out_channels))
        raw = self.raw_kernel
        copies = torch.eye(outputs, inputs, dtype=raw.dtype, device=raw.device)
        delta = raw.new_zeros(raw.shape)
        centre = tuple(k // 2 for k in self.kernel_size)
        delta[(slice(None), slice(None), *centre)] = copies.repeat(self.groups, 1)
        return delta

    def extra_repr(self) -> str:
        """The sizes and the depth."""
        return f"{super().extra_repr()}, depth={self.depth}"
