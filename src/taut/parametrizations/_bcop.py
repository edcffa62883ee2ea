"""BCOP: block convolution orthogonal parameterization."""

import math
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from taut._torch_private import inside_transform
from taut.linalg.block import grow
from taut.linalg.steps import apply_steps, turned
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import read_basis
from taut.parametrizations._orthogonal import Orthogonal
from taut.parametrizations._reshaped import folded

# With fewer channels, kernels cost less than the calls of the steps.
_LEAST_CHANNELS = 96
# Narrow products of half rank run slower than their count says: by a factor 1 + _NARROW / c.
_NARROW = 64


@final
class BCOP(AbstractParametrization):
    r"""Orthogonal convolution: an orthogonal matrix times two-tap steps :math:`[P, I-P]`.

    .. math:: K = H * [P_1, I-P_1] * [Q_1, I-Q_1] * [I-P_2, P_2] * [I-Q_2, Q_2] * \dots

    with `*` block convolution, P along the first axis, Q along the second, and so on; every
    projector :math:`R R^\top` has half rank, where R is the orthonormal basis of a raw tensor.
    Every second step is reversed: for even channel counts the family stays the same, and kernels of
    odd counts (a single channel, too) stay centred. Stride s is invertible downsampling followed by
    a kernel of size k / s. There may be any number of axes; without any it is an orthogonal matrix.

    Guarantee: with circular padding all singular values of the operator are 1 (semi-orthogonal
        where the channel counts differ), for every finite raw tensor; with zero padding at most 1.
        float32: within 1e-5 of 1, none above 1 + 3e-6.
    Cost: for a 3x3 kernel 13 products of `(min, c)` with `(c, c)`, c = max of the channel counts,
        and the bases of four `(c, c / 2)` raw tensors and of one `(c, min)`. 2-D layers with many
        channels and positions form no kernel: they apply the steps to the input, with
        `4 c^2 + c min` multiplications per position instead of `9 c min`.

    Reference:
        Li et al. (2019), *Preventing Gradient Attenuation in Lipschitz Constrained Convolutional
        Networks*, section 4 and appendix B; arXiv:1911.00937. They orthonormalise with 20 Bjorck
        steps; P depends only on the span, so an exact basis gives the same P.

    Example:
        >>> kernel = BCOP(8, 4, (3, 3)).weight()
        >>> symbol = torch.fft.fft2(kernel, s=(5, 5)).permute(2, 3, 0, 1)
        >>> s = torch.linalg.svdvals(symbol)
        >>> torch.allclose(s, torch.ones_like(s), atol=1e-5)
        True
    """

    guarantee = "orthogonal"
    reads_bases = True
    reference = "Li et al. 2019, arXiv:1911.00937, section 4"
    raw_matrix: Tensor
    raw_projectors: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The orthogonal matrix H, and the bases of all projectors in their order."""
        narrow, wide = sorted((self.folded_channels, self.out_channels))
        steps = len(_steps(self.folded_size))
        projectors = {"raw_projectors": (steps, wide, wide // 2)} if steps else {}
        return {"raw_matrix": (wide, narrow), **projectors}

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        axes, steps = len(self.folded_size), _steps(self.folded_size)
        rows = read_basis(self.raw_matrix).mT
        taps = rows.reshape(*(1,) * axes, *rows.shape)
        bases = read_basis(self.raw_projectors) if steps else ()
        for basis, (turn, axis) in zip(bases, steps, strict=True):
            taps = grow(taps, basis, axis, flipped=turn % 2 == 1)
        kernel = taps.permute(axes, axes + 1, *range(axes))
        if self.out_channels > self.folded_channels:
            kernel = kernel.transpose(0, 1)
        return self.unfold(kernel)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The orthogonal matrix H of a kernel without steps; others have no inverse here."""
        if _steps(self.folded_size):
            return super().raw_of(weight)
        matrix = folded(self, weight).flatten(1)
        return {"raw_matrix": matrix if self.out_channels > self.folded_channels else matrix.mT}

    @classmethod
    def dense_as(cls) -> type[AbstractParametrization]:
        """:class:`taut.Orthogonal`, which is what this method is on a matrix."""
        return Orthogonal

    def transform(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """Apply the circular convolution step by step, if that takes fewer operations."""
        if not self._steps_are_cheaper(x):
            return None
        steps = _steps(self.folded_size)
        matrix, bases = read_basis(self.raw_matrix), read_basis(self.raw_projectors)
        moves = [(axis, -1 if turn % 2 else 1) for turn, axis in steps]
        x = self._folded(x)
        if self.out_channels > self.folded_channels:
            y = apply_steps(_matrix_product(x, matrix, None), bases, moves)
            # A copy: in-place operations must not change what is saved for the gradient.
            return y.clone() if bias is None else y + bias[:, None, None]
        # The last step of the kernel is the first to act.
        y = apply_steps(x, bases.flip(0), moves[::-1])
        return _matrix_product(y, matrix.mT, bias)

    def _folded(self, x: Tensor) -> Tensor:
        """The image as the steps act on it: shifted, and downsampled by the stride."""
        for axis, (k, s) in enumerate(zip(self.kernel_size, self.stride, strict=True)):
            # Padding puts (k - s) // 2 positions in front; each step that is not reversed takes s.
            x = turned(x, axis + 2, (k - s) // 2 - s * (k // s // 2))
        if all(s == 1 for s in self.stride):
            return x
        (rows, columns), (b, c, h, w) = self.stride, x.shape
        x = x.reshape(b, c, h // rows, rows, w // columns, columns).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(b, h // rows, w // columns, -1).permute(0, 3, 1, 2)

    def _steps_are_cheaper(self, x: Tensor) -> bool:
        """Compare the multiplications of a training step, with those that build the kernel."""
        narrow, wide = sorted((self.folded_channels, self.out_channels))
        steps = _steps(self.folded_size)
        few = wide < _LEAST_CHANNELS or torch.compiler.is_exporting() or not x.numel()
        if len(self.kernel_size) != 2 or not steps or few or inside_transform():
            return False
        positions, sizes, growth = x.numel() // self.folded_channels, [1, 1], 0
        for _, axis in steps:
            growth += math.prod(sizes)
            sizes[axis] += 1
        kernel = 3 * narrow * wide * (math.prod(sizes) * positions + growth * wide)
        factored = (3.5 * len(steps) * wide + 3 * narrow) * wide * positions
        return factored * (1 + _NARROW / wide) < kernel


def _matrix_product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    kernel = matrix[:, :, None, None].contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, bias)


def _steps(size: tuple[int, ...]) -> list[tuple[int, int]]:
    """Pairs (number of steps on that axis so far, axis); the axes alternate."""
    return sorted((turn, axis) for axis, k in enumerate(size) for turn in range(k - 1))
