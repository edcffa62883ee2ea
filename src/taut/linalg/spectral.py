r"""Operators that are one matrix per frequency of a torus: circular convolutions of full size."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.cholesky import Matrices, eigenvalue_bound
from taut.linalg.fourier import LONGEST, spectral_product
from taut.linalg.gram import self_product
from taut.linalg.operator import AbstractOperator, ExecutionError, NormBound, exact_tensor
from taut.linalg.rounding import (
    U32,
    U64,
    UNDERFLOW,
    collatz_wielandt,
    gamma,
    outward,
    power_of_two,
    refuse_flushing,
    underflow,
    up_divide,
    up_product,
    up_root,
    up_sum,
)
from taut.linalg.twiddles import half_plane

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

    *Execution.* That of `spectral_product`: orthonormal transforms along each axis, as products
    with a fixed real matrix (axes up to 64; FFT above), and the matrices of the half plane.

    Args:
        symbols: complex (f, c_out, c_in), in the order of `half_plane(size)`; with groups, c_in is
            that of one group.
        size: of the torus, one number per axis.
        groups: blocks of channels that do not mix.
    """

    symbols: Tensor
    size: tuple[int, ...]
    groups: int = 1

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
        if symbols.shape[1] % self.groups:
            raise ValueError(
                f"`groups` must divide the outputs; got {self.groups}, {symbols.shape[1]} outputs."
            )
        object.__setattr__(self, "symbols", symbols)
        object.__setattr__(self, "size", size)
        _, outputs, inputs = symbols.shape
        self._describe(
            in_shape=(inputs * self.groups, *size),
            out_shape=(outputs, *size),
            fan_in=self._roundings(inputs),
            adjoint_fan_in=self._roundings(outputs // self.groups),
        )

    def _roundings(self, inputs: int) -> int:
        """Of the transforms, whose tables are rounded, and of the matrices."""
        if max(self.size) > LONGEST:
            return _UNPROVEN
        return sum(2 * (2 * n + 4) for n in self.size) + 2 * inputs

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        r"""Upper bound of the l2 norm: a Cholesky factor at each frequency.

        Of the smaller side of Q; the computed :math:`Q Q^*` is off by at most
        :math:`2 \gamma_{2n} \|Q\|_F^2`, see `self_product`.
        """
        refuse_flushing()
        scale = power_of_two(torch.view_as_real(self.symbols))
        if scale == 0.0:
            return NormBound(0.0, "zero symbols")
        blocks = self._blocks().flatten(0, 1)
        small = blocks if blocks.shape[1] <= blocks.shape[2] else blocks.mT
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
        blocks = self._blocks().flatten(0, 1)
        sums = (blocks.real / scale).abs() + (blocks.imag / scale).abs()
        return up_product(up_root(collatz_wielandt(sums, 2).max().item()), scale)

    def abs_norm_bound(self) -> float:
        r"""Upper bound of the norm of the three stages with moduli for entries.

        Along an axis, rows and columns of the transform sum up to at most :math:`\sqrt{2 n}`, as
        :math:`|\cos| + |\sin| \le \sqrt2`: on d axes to :math:`\sqrt{2^d N}`, there and back. A
        frequency counts at most twice: :math:`2^{d+1} N` times the norm of the matrices.
        """
        refuse_flushing()
        return up_product(float(2 ** (len(self.size) + 1) * math.prod(self.size)), self._moduli())

    def execution_error(self, u: float = U64) -> ExecutionError:
        r"""Bound of the rounding of both transforms and of the matrices.

        A transform of an axis is orthogonal, of rows and columns with sums of moduli of at most
        :math:`\sqrt{2 n}`. Its table has 3 roundings, and one more in another precision; a sum of
        2 n products is off by at most :math:`e_a = \gamma_{2n+4} \sqrt{2n}` relative to what is
        transformed; all axes by :math:`E = \prod_a (1 + e_a) - 1`. On the half plane, take the norm
        that weights a frequency by its count: then both transforms are isometries, and an error of
        theirs is at most :math:`f = \sqrt2 E`.

        With :math:`q = \max \|Q\|`, the matrices make :math:`d = q f + \gamma_{2c} \| |Q_r| + |Q_i|
        \| (1 + f)` of it, in a result of norm at most :math:`s = q + d`. The transform back keeps d
        and adds f s.
        """
        if max(self.size) > LONGEST:
            return ExecutionError(math.inf, math.inf)
        q = self.norm_bound().value
        relative = self._relative(lambda n: gamma(n, u), q)
        return ExecutionError(relative, up_product(underflow(u), max(1.0, q)))

    def rounding(self) -> tuple[int, float]:
        r"""Count m and A such that the execution is off by at most :math:`\gamma_m A` in norm.

        In float64 and float32, for inputs of norm 1, with one rounding more for a bias; A also
        bounds all intermediate results. With :math:`m = \texttt{fan\_in} + 1` and
        :math:`\gamma_j \le \tfrac jm \gamma_m`, the bound of
        `execution_error` is a polynomial P in :math:`\gamma_m` with coefficients >= 0 and P(0) = 0,
        so that :math:`P(\gamma) / \gamma` is largest where :math:`\gamma` is.

        Intermediate results: of the transform at most :math:`1 + f`; of the matrices, with the norm
        M of their moduli, :math:`M (1 + f)`; of the transform back :math:`\sqrt2 (q + d) (1 + f)`.
        As :math:`f < 1`, all are at most :math:`2 (M + P + 1)`.
        """
        if max(self.size) > LONGEST:
            raise ValueError(
                f"an axis is longer than {LONGEST}, and nothing is proven about a library's fast "
                "transforms"
            )
        q, count = self.norm_bound().value, self.fan_in + 1
        largest = gamma(count, U32)
        share = up_divide(largest, float(count))
        relative = self._relative(lambda n: up_product(share, float(n)), q)
        relative = up_sum(relative, up_product(share, up_sum(q, relative)))
        sizes = up_product(2.0, up_sum(self._moduli(), relative, 1.0))
        return count, max(up_divide(relative, largest), sizes)

    def _relative(self, lost: Callable[[int], float], q: float) -> float:
        """The bound of `execution_error` with what n roundings lose."""
        transform = 0.0
        for n in self.size:
            axis = up_product(lost(2 * n + 4), up_root(2.0 * n))
            transform = up_sum(transform, up_product(axis, up_sum(1.0, transform)))
        f = up_product(up_root(2.0), transform)
        grown = up_sum(1.0, f)
        matrices = up_product(lost(2 * self.symbols.shape[2]), self._moduli(), grown)
        d = up_sum(up_product(q, f), matrices)
        return up_sum(d, up_product(f, up_sum(q, d)))

    def singular_values(self) -> Float[Tensor, " s"]:
        """All singular values, descending: those of the matrices, each as often as it counts."""
        _, counts = half_plane(self.size)
        values = torch.linalg.svdvals(self._blocks()).repeat_interleave(
            counts.to(self.symbols.device), dim=0
        )
        return values.flatten().sort(descending=True).values

    def _apply(self, x: Tensor) -> Tensor:
        return self._executed(x, self.symbols)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._executed(y, self._blocks().mH.flatten(1, 2))

    def _blocks(self) -> Tensor:
        """The matrices of the groups apart, (f, g, o, i)."""
        return self.symbols.unflatten(1, (self.groups, -1))

    def _executed(self, x: Tensor, symbols: Tensor) -> Tensor:
        real, imag = symbols.real, symbols.imag
        return spectral_product(x.to(real), real, imag, self.size, self.groups)
