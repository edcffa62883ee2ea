"""Polynomials of a linear operator, such as the truncated exponential of a skew convolution."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from taut.linalg.convolution import ConvOperator
from taut.linalg.operator import AbstractOperator, ExecutionError, NormBound, tightened
from taut.linalg.padding import Padding
from taut.linalg.rounding import U64, gamma, underflow, up, up_product, up_sum

RADII = {
    3: 1.7320, 4: 2.8284, 7: 1.7644, 8: 3.3951, 11: 1.7011, 12: 3.3793, 15: 1.6687, 16: 3.3248,
}  # fmt: skip
r"""Of a degree m, up to where :math:`|S_m(i \theta)| \le 1`, rounded down."""


@final
@dataclass(frozen=True, eq=False)
class SeriesOperator(AbstractOperator):
    r"""A polynomial :math:`\sum_j c_j J^j` of an operator, by Horner's scheme: m applications.

    *Norm.* At most :math:`\sum_j |c_j| \|J\|^j`. The truncated exponential :math:`S_m(J) =
    \sum_{j \le m} J^j / j!` of an exactly skew J is bounded by less: J is normal with eigenvalues
    :math:`i \theta`, :math:`|\theta| \le \|J\|`, so that its norm is the largest
    :math:`|S_m(i \theta)|`. That is at most 1 up to a radius for the degrees of `RADII`,
    where the first term of the polynomial :math:`|S_m(i \theta)|^2 - 1` in :math:`\theta^2` is
    negative; and always at most 1 and Taylor's remainder :math:`\|J\|^{m+1} / (m + 1)!`.

    Args:
        op: J; its outputs have the shape of its inputs.
        coefficients: :math:`c_0 .. c_m`, floats or fractions: exact in bounds, rounded to floats in
            `apply`, whose rounding counts that.

    Raises:
        ValueError: if the shapes differ, or there are no coefficients, or not finite ones.
    """

    op: AbstractOperator
    coefficients: Sequence[float | Fraction]

    def __post_init__(self) -> None:
        op, coefficients = self.op, tuple(self.coefficients)
        if op.in_shape != op.out_shape:
            raise ValueError(
                f"`op` must have outputs of the shape of its inputs; got {op.in_shape} and "
                f"{op.out_shape}."
            )
        if not coefficients or not all(map(math.isfinite, coefficients)):
            raise ValueError(f"`coefficients` must be finite numbers; got {coefficients}.")
        object.__setattr__(self, "coefficients", tuple(Fraction(c) for c in coefficients))
        # Each application and the sum after it; the coefficient, rounded, and its product.
        degree = len(coefficients) - 1
        self._describe(
            in_shape=op.in_shape,
            out_shape=op.out_shape,
            fan_in=degree * (op.fan_in + 1) + 2,
            adjoint_fan_in=degree * (op.adjoint_fan_in + 1) + 2,
        )

    @classmethod
    def exponential(cls, op: AbstractOperator, degree: int) -> "SeriesOperator":
        """The truncated exponential of an exactly skew convolution, nearly orthogonal."""
        if degree < 1:
            raise ValueError(f"`degree` must be >= 1; got {degree}.")
        if fault := skew_fault(op):
            raise ValueError(f"`op` must be an exactly skew convolution; got {fault}.")
        return cls(op, _exponential(degree))

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm."""
        bound = self.power_bound(tight=tight)
        return bound if bound.value == 1.0 else tightened(self, bound)

    def power_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm from that of J alone, which is quick to check."""
        norm, degree = self.op.norm_bound(tight=tight).value, len(self.coefficients) - 1
        if self.coefficients == _exponential(degree) and not skew_fault(self.op):
            if norm <= RADII.get(degree, 0.0):
                return NormBound(1.0, f"exponential of degree {degree} of a skew operator")
            rest = up_product(up(Fraction(1, math.factorial(degree + 1))), *[norm] * (degree + 1))
            return NormBound(up_sum(1.0, rest), "exponential of a skew operator and its remainder")
        return NormBound(self._sum(norm), f"sum of {degree + 1} powers of the norm")

    def abs_norm_bound(self) -> float:
        """The sum of the powers of the bound of J, times moduli of the coefficients."""
        return self._sum(self.op.abs_norm_bound())

    def execution_error(self, u: float = U64) -> ExecutionError:
        r"""Bound of the error of all steps of :math:`y_j = J y_{j+1} + c_j x`.

        As for composed operators; the coefficient and its product with x add
        :math:`\gamma_2 |c_j| |x|`, and the sum rounds once what was computed.
        """
        norm, own = self.op.norm_bound().value, self.op.execution_error(u)
        size, relative, absolute = 0.0, 0.0, 0.0
        for c in reversed(self.coefficients):
            term = up(abs(Fraction(c)))
            relative = up_sum(
                up_product(norm, relative),
                up_product(own.relative, up_sum(size, relative)),
                up_product(gamma(2, u), term),
            )
            absolute = up_product(up_sum(norm, own.relative), absolute)
            absolute = up_sum(absolute, own.absolute, underflow(u))
            size = up_sum(up_product(norm, size), term)
            relative = up_sum(relative, up_product(gamma(1, u), up_sum(size, relative)))
            absolute = up_product(absolute, up_sum(1.0, gamma(1, u)))
        return ExecutionError(relative, absolute)

    def _sum(self, norm: float) -> float:
        powers = ([norm] * j for j in range(len(self.coefficients)))
        moduli = (up(abs(Fraction(c))) for c in self.coefficients)
        return up_sum(*(up_product(c, *power) for c, power in zip(moduli, powers, strict=True)))

    def _apply(self, x: Tensor) -> Tensor:
        return self._horner(x, self.op.apply)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._horner(y, self.op.adjoint)

    def _horner(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        x = x.to(torch.float64)
        last, *others = reversed(self.coefficients)
        y = float(last) * x
        for c in others:
            y = step(y) + float(c) * x
        return y


def _exponential(degree: int) -> tuple[Fraction, ...]:
    return tuple(Fraction(1, math.factorial(j)) for j in range(degree + 1))


def skew_fault(op: AbstractOperator) -> str | None:
    """What keeps an operator from being, bit for bit, minus its adjoint; None if nothing does.

    Tap t reads at t - left, and the adjoint's at left - t: the same taps if they are centred.
    Circular padding wraps both, and zeros cut both off alike. Outputs of the shape of the inputs
    leave no stride but 1.
    """
    if not isinstance(op, ConvOperator):
        return f"a {type(op).__name__}"
    taps, pad = tuple(op.kernel.shape[2:]), op.padding
    if any(k % 2 == 0 for k in taps):
        return f"an even kernel size in {taps}"
    centred = tuple(d * (k // 2) for d, k in zip(op.dilation, taps, strict=True))
    if pad.mode not in ("zeros", "circular") or pad != Padding(pad.mode, centred, centred).filled(
        len(taps)
    ):
        return f"{pad} instead of 'zeros' or 'circular' with {centred} on each side"
    kernel = op.kernel.unflatten(0, (op.groups, -1))
    flipped = kernel.transpose(1, 2).flip(*range(3, kernel.dim()))
    if not torch.equal(kernel, -flipped):
        return "a kernel that is not minus its flipped transpose"
    return None
