r"""Operators that are one matrix per frequency of a torus: circular convolutions of full size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.cholesky import Matrices, eigenvalue_bound
from taut.linalg.gram import self_product
from taut.linalg.operator import AbstractOperator, ExecutionError, NormBound, exact_tensor
from taut.linalg.rounding import (
    U64,
    UNDERFLOW,
    collatz_wielandt,
    gamma,
    outward,
    power_of_two,
    refuse_flushing,
    underflow,
    up_product,
    up_root,
    up_sum,
)
from taut.linalg.twiddles import fourier_matrix, half_plane

_LONGEST = 64
"""Axes up to this length are transformed by matrix products, longer ones by the library's FFT."""

_UNPROVEN = 1 << 60
"""So many roundings that `gamma` is infinite: nothing is proven about the FFT of a library."""

_CHUNK_BYTES = 1 << 23


@final
@dataclass(frozen=True, eq=False)
class SpectralOperator(AbstractOperator):
    r"""The map of images on a torus that applies a matrix at each frequency.

    With :math:`\hat x(\omega) = \sum_j x_j e^{-i \omega \cdot j}` it is
    :math:`\hat y(\omega) = Q(\omega) \hat x(\omega)`: the circular convolution whose kernel has the
    symbols :math:`Q(\omega) = \sum_t K_t e^{i \omega \cdot t}`. Its output is real if
    :math:`Q(-\omega) = \overline{Q(\omega)}`; so the half plane is given, and must be real at the
    frequencies that are their own mirrors. In the orthonormal Fourier basis the operator is block
    diagonal: its norm is the largest of :math:`\|Q(\omega)\|`.

    *Execution.* A transform along each axis, as products with a fixed real matrix (axes up to 64;
    FFT above), the matrices of the half plane, and a transform back, with how often each frequency
    counts: :math:`y_j = \tfrac1N \mathrm{Re} \sum_\omega n_\omega \hat y(\omega) e^{i \omega
    \cdot j}`.

    Args:
        symbols: complex (f, c_out, c_in), in the order of `half_plane(size)`.
        size: of the torus, one number per axis.
    """

    symbols: Tensor
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        symbols, size = self.symbols, tuple(self.size)
        if not symbols.is_complex() or symbols.dim() != 3:
            raise ValueError(
                "`symbols` must be complex, of 3 dimensions; got "
                f"{symbols.dtype} of shape {tuple(symbols.shape)}."
            )
        if not size or min(size) < 1:
            raise ValueError(f"`size` must be at least one number >= 1; got {size}.")
        _, counts = half_plane(size)
        if len(symbols) != len(counts):
            raise ValueError(
                f"`symbols` must have the {len(counts)} frequencies of the half plane of {size}; "
                f"got {len(symbols)}."
            )
        symbols = exact_tensor("symbols", symbols).resolve_conj()
        if bool(symbols.imag[counts == 1].any()):
            raise ValueError(
                "`symbols` must be real at the frequencies that are their own mirrors; got a "
                "nonzero imaginary part."
            )
        object.__setattr__(self, "symbols", symbols)
        object.__setattr__(self, "size", size)
        _, outputs, inputs = symbols.shape
        self._describe(
            in_shape=(inputs, *size),
            out_shape=(outputs, *size),
            fan_in=self._roundings(inputs),
            adjoint_fan_in=self._roundings(outputs),
        )

    def _roundings(self, inputs: int) -> int:
        """Of the transforms, whose tables are rounded, the matrices, and the division by N."""
        if max(self.size) > _LONGEST:
            return _UNPROVEN
        return sum(2 * (2 * n + 2) for n in self.size) + 2 * inputs + 2

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        r"""Upper bound of the l2 norm: a Cholesky factor at each frequency.

        Of the smaller side of Q; the computed :math:`Q Q^*` is off by at most
        :math:`2 \gamma_{2n} \|Q\|_F^2`, see `self_product`.
        """
        refuse_flushing()
        scale = power_of_two(torch.view_as_real(self.symbols))
        if scale == 0.0:
            return NormBound(0.0, "zero symbols")
        small = self.symbols if self.symbols.shape[1] <= self.symbols.shape[2] else self.symbols.mT
        real, imag = small.real / scale, small.imag / scale
        pieces = max(1, _CHUNK_BYTES // (16 * small.shape[1] ** 2))

        def grams() -> Iterator[tuple[Matrices, Matrices | None]]:
            for parts in zip(real.split(pieces), imag.split(pieces), strict=True):
                yield self_product(*parts)

        squares = (real.square() + imag.square()).sum((1, 2)).max()
        error = outward(
            2 * gamma(2 * small.shape[2], U64) * squares + UNDERFLOW, real[0].numel() + 4
        )
        square = outward(eigenvalue_bound(grams) + error, 2).item()
        value = up_product(up_root(square), scale)
        if not math.isfinite(value):
            raise ValueError("`symbols` must be smaller: the bound of their norm overflows.")
        where = f"at all {math.prod(self.size)} frequencies"
        return NormBound(value, f"spectral norm {where}")

    def _moduli(self) -> float:
        r"""Bound of the norm of :math:`|Q_r| + |Q_i|`: the real form of Q, with moduli."""
        scale = power_of_two(torch.view_as_real(self.symbols))
        if scale == 0.0:
            return 0.0
        sums = (self.symbols.real / scale).abs() + (self.symbols.imag / scale).abs()
        return up_product(up_root(collatz_wielandt(sums, 2).max().item()), scale)

    def abs_norm_bound(self) -> float:
        r"""Upper bound of the norm of the three stages with moduli for entries.

        Along an axis, rows and columns of the transform sum up to at most :math:`\sqrt2 n`, as
        :math:`|\cos| + |\sin| \le \sqrt2`: on d axes :math:`\sqrt2^d N`, there and back. A
        frequency counts at most twice, and N divides: :math:`2^{d+1} N` times the norm of the
        matrices.
        """
        refuse_flushing()
        return up_product(float(2 ** (len(self.size) + 1) * math.prod(self.size)), self._moduli())

    def execution_error(self, u: float = U64) -> ExecutionError:
        r"""Bound of the rounding of both transforms and of the matrices.

        Sizes are relative to :math:`|x|`, after a transform also to :math:`\sqrt N`. The transform
        of an axis has the norm :math:`\sqrt n`; a sum of 2 n products with a rounded table is off
        by at most :math:`\gamma_{2n+2} \sqrt2 n`, hence by :math:`e_a = \gamma_{2n+2} \sqrt{2n}` in
        relation; all axes by :math:`E = \prod_a (1 + e_a) - 1`. On the half plane, take the norm
        that weights a frequency by its count: then both transforms are isometries (up to
        :math:`\sqrt N`), and an error of theirs is at most :math:`f = \sqrt2 E`.

        With :math:`q = \max \|Q\|`, the matrices make :math:`d = q f + \gamma_{2c} \| |Q_r| + |Q_i|
        \| (1 + f)` of it, in a result of norm at most :math:`s = q + d`. The transform back keeps d
        and adds f s; the division by N adds one rounding of :math:`s (1 + f)`.
        """
        if max(self.size) > _LONGEST:
            return ExecutionError(math.inf, math.inf)
        transform = 0.0
        for n in self.size:
            axis = up_product(gamma(2 * n + 2, u), up_root(2.0 * n))
            transform = up_sum(transform, up_product(axis, up_sum(1.0, transform)))
        f, q = up_product(up_root(2.0), transform), self.norm_bound().value
        grown = up_sum(1.0, f)
        matrices = up_product(gamma(2 * self.symbols.shape[2], u), self._moduli(), grown)
        d = up_sum(up_product(q, f), matrices)
        s = up_sum(q, d)
        division = up_product(gamma(1, u), s, grown)
        relative = up_sum(d, up_product(f, s), division)
        return ExecutionError(relative, up_product(underflow(u), max(1.0, q)))

    def singular_values(self) -> Float[Tensor, " s"]:
        """All singular values, descending: those of the matrices, each as often as it counts."""
        _, counts = half_plane(self.size)
        values = torch.linalg.svdvals(self.symbols).repeat_interleave(
            counts.to(self.symbols.device), dim=0
        )
        return values.flatten().sort(descending=True).values

    def _apply(self, x: Tensor) -> Tensor:
        return self._executed(x, self.symbols)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._executed(y, self.symbols.mH)

    def _executed(self, x: Tensor, symbols: Tensor) -> Tensor:
        real, imag = symbols.real, symbols.imag
        # (f, 2 c_out, 2 c_in), on (real, imaginary)
        blocks = torch.cat([torch.cat([real, -imag], 2), torch.cat([imag, real], 2)], 1)
        grid, counts = half_plane(self.size)
        strides = [math.prod(self.size[axis + 1 :]) for axis in range(len(self.size))]
        index = (grid * grid.new_tensor(strides)).sum(1).to(blocks.device)

        x = x.to(blocks)
        z = self._transformed(torch.stack([x, torch.zeros_like(x)], -1))  # (b, c_in, *size, 2)
        z = z.flatten(2, -2)[:, :, index]  # (b, c_in, f, 2)
        z = blocks @ z.permute(2, 3, 1, 0).flatten(1, 2)  # (f, 2 c_out, b)
        z = z * counts.to(z)[:, None, None]
        z = z.unflatten(1, (2, -1)).permute(3, 2, 0, 1)  # (b, c_out, f, 2)
        half = z.new_zeros(*z.shape[:2], math.prod(self.size), 2)
        half[:, :, index] = z
        y = self._transformed(half.unflatten(2, self.size), inverse=True)
        return y[..., 0] / math.prod(self.size)

    def _transformed(self, z: Tensor, *, inverse: bool = False) -> Tensor:
        """DFT of (real, imaginary) pairs (b, c, *size, 2), or its inverse times N."""
        for axis, n in enumerate(self.size, start=2):
            if n > _LONGEST:
                wave = torch.view_as_complex(z.contiguous())
                transform = torch.fft.ifft if inverse else torch.fft.fft
                wave = transform(wave, dim=axis, norm="forward" if inverse else "backward")
                z = torch.view_as_real(wave)
                continue
            matrix = fourier_matrix(n).to(z)
            pairs = z.movedim(axis, -2).flatten(-2) @ (matrix.T if inverse else matrix)
            z = pairs.unflatten(-1, (n, 2)).movedim(-2, axis)
        return z
