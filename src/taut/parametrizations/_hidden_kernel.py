"""What kernels of residual layers share: a raw kernel of any size, and a scale of its outputs."""

import math

import torch
from torch import Tensor

from taut.linalg.embedding import polyphase
from taut.linalg.rescaling import MOST_AXES, magnitude
from taut.parametrizations._base import AbstractParametrization


class AbstractHiddenKernel(AbstractParametrization):
    """1-Lipschitz kernels, each a raw kernel over a number for each output."""

    guarantee = "lipschitz"
    raw_kernel: Tensor

    def kernel_shape(self) -> tuple[int, ...]:
        """The shape of the raw kernel, that of the weight."""
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def check_sizes(self) -> None:
        """Kernels have at most 3 axes."""
        if len(self.kernel_size) > MOST_AXES:
            raise ValueError(f"`kernel_size` must have at most 3 axes; got {self.kernel_size}.")

    def draw_kernel(self) -> None:
        """Draw the raw kernel anew; its size does not matter."""
        with torch.no_grad():
            self.raw_kernel.normal_(std=1 / math.sqrt(max(1, self.raw_kernel[0].numel())))

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels // groups, *kernel_size)`."""
        return self.scaled_weight()[0]

    def sized_kernel(self) -> tuple[Tensor, Tensor, Tensor]:
        """A power of two, the raw kernel over it, and that one by phases, `(g, o, i, *taps)`."""
        size = magnitude(self.raw_kernel)
        raw = self.raw_kernel / size
        phases = polyphase(raw, self.stride, (1,) * len(self.stride))
        return size, raw, phases.unflatten(0, (self.groups, -1))
