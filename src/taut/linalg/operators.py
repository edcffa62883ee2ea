r"""Convolutions as linear operators: a kernel together with everything that decides what it does.

A kernel has no norm of its own: stride, dilation, groups, padding and the size of the input make
the operator. `ConvOperator` holds them all, in float64; `spectrum` and `bounds` read only it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

__all__ = ["ConvOperator", "Padding", "half_plane", "padded_index", "polyphase", "symbols"]

_MODES = ("zeros", "circular", "reflect", "replicate")
_CONVOLUTIONS = {
    1: torch.nn.functional.conv1d,
    2: torch.nn.functional.conv2d,
    3: torch.nn.functional.conv3d,
}
_ADJOINTS = {
    1: torch.nn.functional.conv_transpose1d,
    2: torch.nn.functional.conv_transpose2d,
    3: torch.nn.functional.conv_transpose3d,
}
_CHUNK_BYTES = 1 << 26


@final
@dataclass(frozen=True)
class Padding:
    """What is added to the input: `extend` zeros after it, then `left` and `right` in `mode`.

    Each of `left`, `right` and `extend` has one number per spatial axis; empty means none.

    >>> Padding("circular", left=(1, 1), right=(1, 1)).right
    (1, 1)
    """

    mode: str = "zeros"
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()
    extend: tuple[int, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class ConvOperator:
    """A linear map `x -> conv(pad(x), kernel)` on inputs of one size, in float64.

    A matrix is `ConvOperator(weight, ())`, without spatial axes. The bias plays no part.

    Args:
        kernel: (c_out, c_in / groups, *kernel_size); read without its gradient.
        input_size: spatial size of the input, before any padding.
        stride: step of the output, one per axis; empty means 1.
        dilation: distance of the taps, one per axis; empty means 1.
        groups: number of blocks of channels that do not mix.
        padding: what is added to the input first.

    Raises:
        ValueError: if the kernel has NaN or Inf, or a size, a stride or a padding cannot be.

    Example:
        >>> op = ConvOperator(torch.ones(1, 1, 2), (4,), padding=Padding("circular", (0,), (1,)))
        >>> op(torch.eye(4).unsqueeze(1))[0]
        tensor([[1., 0., 0., 1.]], dtype=torch.float64)
    """

    kernel: Tensor
    input_size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding: Padding = Padding()

    def __post_init__(self) -> None:
        axes = self.kernel.dim() - 2
        kernel = self.kernel.detach()
        if not kernel.is_floating_point():
            raise ValueError(f"`kernel` must be real floating point; got {kernel.dtype}.")
        if kernel.device.type == "mps":  # has no float64
            kernel = kernel.cpu()
        kernel = kernel.to(torch.float64)
        if not bool(kernel.isfinite().all()):
            raise ValueError("`kernel` must be finite; it holds NaN or Inf.")
        pad = self.padding
        padding = Padding(pad.mode, *(v or (0,) * axes for v in (pad.left, pad.right, pad.extend)))
        values = {
            "kernel": kernel,
            "input_size": tuple(self.input_size),
            "stride": tuple(self.stride) or (1,) * axes,
            "dilation": tuple(self.dilation) or (1,) * axes,
            "padding": padding,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check(axes)

    def _check(self, axes: int) -> None:
        pad = self.padding
        if not 0 <= axes <= 3:
            raise ValueError(f"`kernel` must have 2 to 5 dimensions; got {axes + 2}.")
        if pad.mode not in _MODES:
            raise ValueError(f"`mode` must be one of {_MODES}; got {pad.mode!r}.")
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
        pad = self.padding
        sizes = zip(self.extended_size, pad.left, pad.right, strict=True)
        return tuple(n + left + right for n, left, right in sizes)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        axes = zip(self.padded_size, self.kernel.shape[2:], self.stride, self.dilation, strict=True)
        return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes)

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of the operator as one dense matrix."""
        return (
            self.kernel.shape[0] * math.prod(self.output_size),
            self.in_channels * math.prod(self.input_size),
        )

    def group_kernels(self) -> tuple[Tensor, ...]:
        """One kernel per group; the operator is block diagonal in them."""
        return self.kernel.chunk(self.groups)

    def __call__(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Apply the operator in float64 to a batch of shape (b, c_in, *input_size)."""
        x = _pad(x.to(self.kernel), self.padding)
        axes = len(self.input_size)
        if axes == 0:
            weight = torch.block_diag(*self.group_kernels())
            return x @ weight.T
        return _CONVOLUTIONS[axes](
            x, self.kernel, stride=self.stride, dilation=self.dilation, groups=self.groups
        )

    def adjoint(self, y: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Apply the adjoint in float64 to a batch of shape (b, c_out, *output_size).

        Raises:
            ValueError: if the padding copies positions of the input.

        Example:
            >>> op = ConvOperator(torch.tensor([[[1.0, 2.0]]]), (3,))
            >>> op.adjoint(torch.tensor([[[1.0, 10.0]]])).tolist()
            [[[1.0, 12.0, 20.0]]]
        """
        y, axes = y.to(self.kernel), len(self.input_size)
        if axes == 0:
            return y @ torch.block_diag(*self.group_kernels())
        if self.padding.mode != "zeros" and any((*self.padding.left, *self.padding.right)):
            raise ValueError(f"`padding` must be zeros; got {self.padding.mode!r}.")
        x = _ADJOINTS[axes](
            y, self.kernel, stride=self.stride, dilation=self.dilation, groups=self.groups
        )
        for axis, (n, left) in enumerate(
            zip(self.input_size, self.padding.left, strict=True), start=2
        ):
            # What windows read beyond the input are zeros; what they do not reach gets none.
            missing = max(0, left + n - x.shape[axis])
            x = torch.nn.functional.pad(x, [0, 0] * (x.dim() - axis - 1) + [0, missing])
            x = x.narrow(axis, left, n)
        return x


def padded_index(n: int, left: int, right: int, mode: str) -> Tensor:
    """Which of `n` positions each position of the padded axis copies (not for zeros).

    Args:
        n: length of the axis.
        left: positions added before it.
        right: positions added after it.
        mode: "circular" (may go round several times), "reflect" or "replicate".

    Returns:
        Indices, int64, `left + n + right` of them.

    Raises:
        ValueError: if a reflection would reach beyond the axis, or for zeros.

    Example:
        >>> padded_index(3, 1, 2, "reflect")
        tensor([1, 0, 1, 2, 1, 0])
    """
    index = torch.arange(-left, n + right)
    if mode == "circular":
        return index % n
    if mode == "replicate":
        return index.clamp(0, n - 1)
    if mode != "reflect":
        raise ValueError(f"`mode` must copy positions of the input; got {mode!r}.")
    if max(left, right) >= n:
        raise ValueError(f"`left` and `right` must be < {n} to reflect; got {left}, {right}.")
    index = index.abs()
    return torch.where(index < n, index, 2 * (n - 1) - index)


def _pad(x: Tensor, padding: Padding) -> Tensor:
    """Zero-extend, then pad each spatial axis of (b, c, *size)."""
    for axis, (left, right, extend) in enumerate(
        zip(padding.left, padding.right, padding.extend, strict=True), start=2
    ):
        before, after = (left, right) if padding.mode == "zeros" else (0, 0)
        zeros = [0, 0] * (x.dim() - axis - 1) + [before, extend + after]
        x = torch.nn.functional.pad(x, zeros)
        if padding.mode != "zeros":
            index = padded_index(x.shape[axis], left, right, padding.mode)
            x = x.index_select(axis, index.to(x.device))
    return x


def polyphase(
    kernel: Float[Tensor, "o i ..."], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Float[Tensor, "o i2 ..."]:
    r"""The stride-1, dilation-1 kernel that does the same on the pixel-unshuffled input.

    Dilation stuffs zeros between the taps. With tap :math:`q = s t + a` and input position
    :math:`s u + a`, output :math:`j` reads :math:`u = j + t` of phase :math:`a`: channels become
    (channel, phase) pairs, and unshuffling permutes the input, so that the norm stays.

    Example:
        >>> polyphase(torch.tensor([[[1.0, 2.0, 3.0]]]), (2,), (1,))
        tensor([[[1., 3.],
                 [2., 0.]]])
    """
    for axis, (s, d) in enumerate(zip(stride, dilation, strict=True), start=2):
        kernel = kernel.movedim(axis, -1)
        k = kernel.shape[-1]
        taps = kernel.new_zeros(*kernel.shape[:-1], -(-(d * (k - 1) + 1) // s) * s)
        taps[..., : d * (k - 1) + 1 : d] = kernel
        taps = taps.unflatten(-1, (-1, s))  # (o, i, ..., t, a)
        kernel = taps.movedim(-1, 2).flatten(1, 2).movedim(-1, axis)
    return kernel


def half_plane(torus: tuple[int, ...]) -> tuple[Int[Tensor, "f a"], Int[Tensor, " f"]]:
    """One of each pair of frequencies w, -w of a torus, and how often it counts (1 or 2).

    Example:
        >>> grid, counts = half_plane((4,))
        >>> grid.flatten().tolist(), counts.tolist()
        ([0, 1, 2], [1, 2, 1])
    """
    grid = torch.ones(torus).nonzero()
    size = torch.tensor(torus, dtype=torch.long)
    weights = torch.tensor([math.prod(torus[a + 1 :]) for a in range(len(torus))]).long()
    here, mirror = (grid * weights).sum(1), ((-grid % size) * weights).sum(1)
    return grid[here <= mirror], 1 + (here < mirror)[here <= mirror].long()


def symbols(
    kernel: Float[Tensor, "o i ..."], torus: tuple[int, ...]
) -> Iterator[tuple[Complex[Tensor, "f o i"], Tensor]]:
    r"""The matrices that a stride-1 convolution on a torus applies at each frequency, in pieces.

    :math:`\hat K(\omega) = \sum_t K_t e^{i \omega t}`; a kernel longer than the torus wraps round.
    Real kernels give conjugate matrices at :math:`\pm\omega`, hence equal singular values: one of
    each pair is given, with how often it counts (1 or 2). Angles are reduced exactly, as integers.

    Args:
        kernel: (o, i, *taps), float64.
        torus: size of each axis.

    Yields:
        (matrices, counts) for a piece of the frequencies; the counts sum to the size of the torus.

    Example:
        >>> piece, counts = next(symbols(torch.ones(1, 1, 2, dtype=torch.float64), (4,)))
        >>> piece.abs().square().round().flatten().tolist(), counts.tolist()
        ([4.0, 2.0, 0.0], [1, 2, 1])
    """
    grid, counts = half_plane(torus)
    size = torch.tensor(torus, dtype=torch.long)
    places = torch.ones(kernel.shape[2:]).nonzero()
    flat = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    step = max(1, _CHUNK_BYTES // (16 * max(1, flat.shape[0], places.numel())))
    for piece, count in zip(grid.split(step), counts.split(step), strict=True):
        phases = (piece[:, None] * places % size).to(torch.float64) / size
        angle = 2 * torch.pi * phases.sum(-1).to(kernel.device)
        matrices = torch.complex(angle.cos() @ flat.T, angle.sin() @ flat.T)
        yield matrices.unflatten(1, kernel.shape[:2]), count
