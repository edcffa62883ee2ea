r"""The Gram kernel of a convolution, with a bound of its rounding."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.rounding import U64, UNDERFLOW, collatz_wielandt, gamma, outward
from taut.linalg.twiddles import TWIDDLE_ERROR, Shifts, twiddles

_BLOCK = 512
"""Columns of a symmetric product that are computed together."""

Parts = Float[Tensor, "g f m m"]


@final
@dataclass(frozen=True, eq=False)
class GramKernel:
    r"""Matrices :math:`R_d` with :math:`\hat K \hat K^* = \sum_d R_d e^{i \omega \cdot d}`, nearly.

    Attributes:
        grams: (groups, shifts, m, m); the symmetric :math:`R_0` first. Of d and -d only one is
            there, since :math:`R_{-d} = R_d^\top`.
        shifts: the vectors d.
        error: per group, a bound at all frequencies of the distance to the exact matrix.
        largest: per group, a bound of the exact matrix that needs no frequency.
    """

    grams: Float[Tensor, "g d m m"]
    shifts: Shifts
    error: Float[Tensor, " g"]
    largest: Float[Tensor, " g"]

    @property
    def degrees(self) -> tuple[int, ...]:
        """Largest shift along each axis: the degree of the trigonometric polynomial."""
        return tuple(max(axis) for axis in zip(*self.shifts, strict=True))

    def shifted(self, delta: Float[Tensor, " g"]) -> "GramKernel":
        r"""The kernel of :math:`\hat K \hat K^* - \delta I`; the differences are rounded once."""
        grams = self.grams.clone()
        grams[:, 0].diagonal(dim1=-2, dim2=-1).sub_(delta[:, None])
        return GramKernel(grams, self.shifts, self.error, self.largest)

    def symbols(self, torus: tuple[int, ...]) -> Iterator[tuple[Parts, Parts | None]]:
        r"""Real and imaginary parts (g, f, m, m) of :math:`\sum_d R_d e^{i \omega \cdot d}`.

        :math:`R_0 + \sum_{d>0} \cos(\omega \cdot d) (R_d + R_d^\top)` and
        :math:`\sum_{d>0} \sin(\omega \cdot d) (R_d - R_d^\top)`, for one of each pair of
        frequencies of a torus, in pieces. Without shifts they are the same at all frequencies and
        real: one, and None.
        """
        if len(self.shifts) == 1:
            yield self.grams, None
            return
        even, odd = self.grams + self.grams.mT, self.grams - self.grams.mT
        even[:, 0] = self.grams[:, 0]
        even, odd, sides = even.flatten(2), odd.flatten(2), self.grams.shape[-2:]
        for cos, sin in twiddles(torus, self.shifts, even[:, 0].numel()):
            real, imag = cos.to(even) @ even, sin.to(odd) @ odd
            yield real.unflatten(2, sides), imag.unflatten(2, sides)

    def evaluation_error(self) -> Float[Tensor, " g"]:
        r"""Bound of the rounding of `symbols`, in the Frobenius norm.

        Real and imaginary part are each off, entry by entry, by at most
        :math:`\tau + \gamma_{D+3}` times :math:`|R_0| + \sum_{d>0} (|R_d| + |R_d^\top|)` for D
        matrices and twiddles within :math:`\tau`: a rounding for `shifted`, one for
        :math:`R_d \pm R_d^\top`, one for the product and D - 1 for the sum. Twice as much covers
        both together.
        """
        norms = self.grams.flatten(2).square().sum(2).sqrt()
        total = norms[:, 0] + 2 * norms[:, 1:].sum(1)
        entries = self.grams.shape[-1] ** 2 + 2 * len(self.shifts) + 8
        relative = 2 * (TWIDDLE_ERROR + gamma(len(self.shifts) + 3, U64))
        return outward(relative * total + UNDERFLOW, entries)


def gram_kernel(kernel: Float[Tensor, "g o i ..."]) -> GramKernel:
    r"""Gram kernels :math:`R_d = \sum_p K_p K_{p-d}^\top` of stride-1 kernels, entries at most 2.

    Of the smaller side: :math:`\hat K^\top` has the same singular values. One product of float64
    matrices per shift, whose entries are sums of at most n products; so
    :math:`|\Delta R_d| \le \gamma_n \sum_p |K_p| |K_{p-d}|^\top`, and at each frequency
    :math:`\|\Delta \hat R\| \le \|\sum_d |\Delta R_d|\| \le \gamma_n \|A A^\top\|` with
    :math:`A = \sum_p |K_p|`, since a matrix has at most the norm of its moduli.
    """
    if kernel.shape[1] > kernel.shape[2]:
        kernel = kernel.transpose(1, 2)
    taps = tuple(kernel.shape[3:])
    shifts = _half_space(taps)
    last = kernel.movedim(2, -1).contiguous()  # (g, m, *taps, n)
    grams = torch.stack([_product(last, taps, shift) for shift in shifts], 1)
    below = grams[:, 0].tril()
    grams[:, 0] = below + below.tril(-1).mT
    flat = kernel.flatten(3) if taps else kernel[..., None]
    largest = collatz_wielandt(flat.abs().sum(3), flat.shape[3])
    relative = gamma(flat.shape[2] * flat.shape[3], U64)
    return GramKernel(grams, shifts, outward(relative * largest + UNDERFLOW, 2), largest)


def _half_space(taps: tuple[int, ...]) -> Shifts:
    """0, and of each other d and -d the one whose first nonzero number is positive."""
    zero = (0,) * len(taps)
    shifts = itertools.product(*(range(1 - k, k) for k in taps))
    return (zero, *(d for d in shifts if d > zero))


def _product(last: Tensor, taps: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    left, right = last, last
    for axis, (k, d) in enumerate(zip(taps, shift, strict=True), start=2):
        left = left.narrow(axis, max(d, 0), k - abs(d))
        right = right.narrow(axis, max(-d, 0), k - abs(d))
    left, right = left.flatten(2), right.flatten(2)
    return left @ right.mT if any(shift) or left.shape[1] < 2 * _BLOCK else _lower_product(left)


def _lower_product(a: Float[Tensor, "g m n"]) -> Float[Tensor, "g m m"]:
    """A A^T on and below the diagonal, in columns of blocks: half the products."""
    product = a.new_zeros(len(a), a.shape[1], a.shape[1])
    for start in range(0, a.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        product[:, start:, columns] = a[:, start:] @ a[:, columns].mT
    return product


def self_product(
    real: Float[Tensor, "*b m n"], imag: Float[Tensor, "*b m n"] | None
) -> tuple[Float[Tensor, "*b m m"], Float[Tensor, "*b m m"] | None]:
    r"""Real and imaginary part of :math:`A A^*` for :math:`A = A_r + i A_i`, by real products.

    :math:`A_r A_r^\top + A_i A_i^\top` and :math:`Q - Q^\top`, :math:`Q = A_i A_r^\top`. An entry
    is a sum of at most 2 n products; the Frobenius norms of the sums of their moduli are at most
    :math:`\|A\|_F^2` each, so that the whole is off by at most :math:`2 \gamma_{2n} \|A\|_F^2`.
    """
    if imag is None:
        return real @ real.mT, None
    both, cross = torch.cat([real, imag], -1), imag @ real.mT
    return both @ both.mT, cross - cross.mT
