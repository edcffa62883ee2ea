"""What a convolution does: its kernel with stride, dilation, groups, padding and input size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.operator import AbstractOperator, exact_tensor
from taut.linalg.padding import MODES, Padding, padded_index

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED_CONVOLUTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
"""By the number of spatial axes."""

_UNPADDED = Padding()


@dataclass(frozen=True, eq=False)
class AbstractConvolution(AbstractOperator):
    """The map `x -> conv(pad(x), kernel)` on inputs of one size, without its norms.

    Proofs are functions of it; `ConvOperator` makes methods of them.
    """

    kernel: Tensor
    input_size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding: Padding = _UNPADDED

    def __post_init__(self) -> None:
        axes = self.kernel.dim() - 2
        if not self.kernel.is_floating_point():
            raise ValueError(f"`kernel` must be real floating point; got {self.kernel.dtype}.")
        values = {
            "kernel": exact_tensor("kernel", self.kernel),
            "input_size": tuple(self.input_size),
            "stride": tuple(self.stride) or (1,) * axes,
            "dilation": tuple(self.dilation) or (1,) * axes,
            "padding": self.padding.filled(axes),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check(axes)
        reads = math.prod(self._reads(axis) for axis in range(axes))
        self._describe(
            in_shape=(self.in_channels, *self.input_size),
            out_shape=(self.kernel.shape[0], *self.output_size),
            fan_in=self.kernel[0].numel(),
            adjoint_fan_in=self.kernel.shape[0] // self.groups * reads,
        )

    def _check(self, axes: int) -> None:
        pad = self.padding
        if not 0 <= axes <= 3:
            raise ValueError(f"`kernel` must have 2 to 5 dimensions; got {axes + 2}.")
        if pad.mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}; got {pad.mode!r}.")
        for name, value, least in (
            ("input_size", self.input_size, 1),
            ("stride", self.stride, 1),
            ("dilation", self.dilation, 1),
            ("left", pad.left, 0),
            ("right", pad.right, 0),
            ("extend", pad.extend, 0),
        ):
            if len(value) != axes or any(v < least for v in value):
                raise ValueError(f"`{name}` must be {axes} numbers >= {least}; got {value}.")
        if self.groups < 1 or self.kernel.shape[0] % self.groups:
            raise ValueError(
                f"`groups` must divide the output channels; got groups={self.groups}, "
                f"channels={self.kernel.shape[0]}."
            )
        if any(n < 1 for n in self.output_size):
            raise ValueError(
                f"`input_size` must leave an output; got input_size={self.input_size} for kernel "
                f"size {tuple(self.kernel.shape[2:])}."
            )

    @property
    def in_channels(self) -> int:
        """Channels of the input, all groups together."""
        return self.kernel.shape[1] * self.groups

    @property
    def extended_size(self) -> tuple[int, ...]:
        """Spatial size of the input once `extend` zeros follow it."""
        return tuple(n + e for n, e in zip(self.input_size, self.padding.extend, strict=True))

    @property
    def padded_size(self) -> tuple[int, ...]:
        """Spatial size after all padding."""
        sizes = zip(self.extended_size, self.padding.left, self.padding.right, strict=True)
        return tuple(n + left + right for n, left, right in sizes)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        axes = zip(self.padded_size, self.kernel.shape[2:], self.stride, self.dilation, strict=True)
        return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes)

    def _reads(self, axis: int) -> int:
        """How often windows read one input position along an axis; at least the taps."""
        taps, pad = self.kernel.shape[2 + axis], self.padding
        if pad.mode == "zeros":  # no position is copied: each tap reads it at most once
            return taps
        n, left, right = self.extended_size[axis], pad.left[axis], pad.right[axis]
        windows = padded_index(n, left, right, pad.mode)
        # (outputs, taps)
        windows = windows.unfold(0, self.dilation[axis] * (taps - 1) + 1, self.stride[axis])
        copied = windows[:, :: self.dilation[axis]]
        return max(taps, int(copied.flatten().bincount().max()))

    @property
    def is_torus(self) -> bool:
        """Whether it is a convolution on a torus, each output position computed once."""
        circular = self.padding.mode == "circular"
        sizes = (self.input_size, self.stride, self.output_size, self.padded_size)
        # Without padding, taps that stay inside a stride never look beyond the end.
        return not any(self.padding.extend) and all(
            n % s == 0 and out * s == n and (circular or padded == n)
            for n, s, out, padded in zip(*sizes, strict=True)
        )

    def group_kernels(self) -> tuple[Tensor, ...]:
        """One kernel per group; the operator is block diagonal in them."""
        return self.kernel.chunk(self.groups)

    def _apply(self, x: Tensor) -> Tensor:
        if not self.input_size:
            return x.to(self.kernel) @ torch.block_diag(*self.group_kernels()).T
        padded = self.padding.apply(x.to(self.kernel))
        return convolve(padded, self.kernel, self.stride, self.dilation, self.groups)

    def _adjoint(self, y: Tensor) -> Tensor:
        y, axes = y.to(self.kernel), len(self.input_size)
        if axes == 0:
            return y @ torch.block_diag(*self.group_kernels())
        x = TRANSPOSED_CONVOLUTIONS[axes](
            y, self.kernel, stride=self.stride, dilation=self.dilation, groups=self.groups
        )
        # Windows may leave out the end of the padded input.
        rest = [p - n for p, n in zip(self.padded_size, x.shape[2:], strict=True)]
        sides = [side for missing in reversed(rest) for side in (0, missing)]
        return self.padding.adjoint(torch.nn.functional.pad(x, sides))


def convolve(
    x: Float[Tensor, "b c ..."],
    kernel: Float[Tensor, "o i ..."],
    stride: tuple[int, ...] | int = 1,
    dilation: tuple[int, ...] | int = 1,
    groups: int = 1,
) -> Float[Tensor, "b o ..."]:
    """Torch's convolution without padding, for 1 to 3 axes by the kernel's."""
    function = CONVOLUTIONS[kernel.dim() - 2]
    return function(x, kernel, stride=stride, dilation=dilation, groups=groups)


def stuffed(kernel: Tensor, steps: Sequence[int]) -> Tensor:
    """Zeros between the taps."""
    sizes = [s * (k - 1) + 1 for s, k in zip(steps, kernel.shape[2:], strict=True)]
    wide = kernel.new_zeros(*kernel.shape[:2], *sizes)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in steps))] = kernel
    return wide


def composed_taps(last: Tensor, first: Tensor) -> Tensor:
    """Taps of one kernel after another, (o, m, ...) and (m, i, ...): a product of polynomials."""
    return TRANSPOSED_CONVOLUTIONS[last.dim() - 2](last, first)
