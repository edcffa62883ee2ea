r"""Outward-rounded arithmetic.

Assumed: IEEE 754 arithmetic, + - * / and roots rounded to nearest; nothing of any library function.
The scalars are Python floats (float64). Results are never on the wrong side of the exact value.
"""

import math
import sys
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

U64 = 2.0**-53
"""Unit roundoff of float64: the largest relative error of one operation without underflow."""

U32 = 2.0**-24
"""Unit roundoff of float32."""

UNDERFLOW = 2.0**-240
"""Above what underflow changes in sums of products of numbers up to 2 and in fourth roots."""


def underflow(u: float) -> float:
    """Above what underflow loses in fewer than 2^40 products with unit roundoff `U64` or `U32`.

    Each product and sum loses less than the smallest normal number, 2^-1022 or 2^-126.
    """
    return {U64: UNDERFLOW, U32: 2.0**-80}[u]


def up(value: Fraction) -> float:
    """Smallest float that is not below an exact number."""
    try:
        nearest = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.nextafter(math.inf, 0)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def down(value: Fraction) -> float:
    """Largest float that is not above an exact number."""
    return -up(-value)


def next_up(values: Tensor) -> Tensor:
    """The next larger floats: not below the exact results of operations that were rounded once."""
    return torch.nextafter(values, torch.full_like(values, math.inf))


def next_down(values: Tensor) -> Tensor:
    """The next smaller floats: not above the exact results of operations that were rounded once."""
    return torch.nextafter(values, torch.full_like(values, -math.inf))


def gamma(n: int, u: float) -> float:
    r""":math:`\gamma_n = n u / (1 - n u)`, rounded up: n roundings in a row, whatever their order.

    :math:`\prod_{i \le n} (1 + \delta_i)^{\pm 1} = 1 + \theta` with :math:`|\theta| \le \gamma_n`
    (Higham (2002), *Accuracy and Stability of Numerical Algorithms*, lemma 3.1). Infinite where
    n u >= 1.
    """
    share = n * Fraction(u)
    return up(share / (1 - share)) if share < 1 else math.inf


def up_product(*factors: float) -> float:
    """Product of numbers >= 0, never below the exact one; exact for factors 0 and 1."""
    product = 1.0
    for factor in factors:
        if product == 0.0 or factor == 0.0:
            return 0.0
        exact = product == 1.0 or factor == 1.0
        product = product * factor if exact else math.nextafter(product * factor, math.inf)
    return product


def up_sum(*terms: float) -> float:
    """Sum of numbers >= 0, never below the exact one; exact for terms 0."""
    total = 0.0
    for term in terms:
        exact = total == 0.0 or term == 0.0
        total = total + term if exact else math.nextafter(total + term, math.inf)
    return total


def down_difference(a: float, b: float) -> float:
    """`a - b`, never above the exact one; exact for b = 0 and for a = b."""
    difference = a - b
    return difference if b == 0.0 or a == b else math.nextafter(difference, -math.inf)


def up_divide(a: float, b: float) -> float:
    """`a / b` of numbers >= 0, rounded up; exact for a = 0 and b = 1, infinite for b = 0 < a."""
    if a == 0.0 or b == 1.0:
        return a
    return math.nextafter(a / b, math.inf) if b > 0.0 else math.inf


def down_divide(a: float, b: float) -> float:
    """`a / b` of numbers a >= 0 and b > 0, never above the exact one; exact for b = 1."""
    return a if b == 1.0 else max(0.0, math.nextafter(a / b, -math.inf))


def up_root(value: float) -> float:
    """Square root of a number >= 0, never below the exact one; exact where a float is."""
    root = math.sqrt(value)
    exact = math.isinf(root) or Fraction(root) ** 2 >= Fraction(value)
    return root if exact else math.nextafter(root, math.inf)


def up_root_sum_square(*terms: float) -> float:
    """Root of the sum of squares of numbers >= 0, never below the exact one; 0 for none."""
    nonzero = [term for term in terms if term != 0.0]
    if len(nonzero) < 2:
        return sum(nonzero, 0.0)
    largest = max(nonzero)
    ratios = [up_divide(term, largest) for term in nonzero]
    return up_product(largest, up_root(up_sum(*(up_product(r, r) for r in ratios))))


def outward(value: Tensor, roundings: int) -> Tensor:
    """Above the exact value of a float64 tensor >= 0 that `roundings` roundings in a row made.

    Sums of terms >= 0, products, quotients and roots, without underflow; of a sum of n terms no
    term passes more than n - 1 roundings. The product here is one more.
    """
    return value * up(1 + Fraction(gamma(roundings + 1, U64)))


def power_of_two(values: Tensor) -> float:
    """A power of two: divided by it, the largest entry lies in [1/2, 2); 0 for zeros alone.

    The division is exact but for entries below 2^-1022 of the largest.
    """
    largest = values.abs().max().item() if values.numel() else 0.0
    return math.ldexp(1.0, min(1023, math.frexp(largest)[1])) if largest else 0.0


def refuse_flushing() -> None:
    """Raise where subnormal numbers count as zero: small weights would be lost unseen."""
    if sys.float_info.min / 2 == 0.0:
        raise ValueError("a proof needs subnormal numbers; call torch.set_flush_denormal(False).")


def collatz_wielandt(a: Float[Tensor, "g m n"], summed: int) -> Float[Tensor, " g"]:
    r"""Bound of the squared norms of matrices >= 0, each entry a sum of `summed` terms, rounded.

    Collatz and Wielandt: :math:`\|A\|^2 = \rho(A^\top A) \le \max_i (A^\top A v)_i / v_i` for each
    v > 0 (Horn, Johnson (2013), *Matrix Analysis*, corollary 8.1.29).
    """
    v = torch.ones_like(a[:, 0, :, None])
    for _ in range(12):  # any v > 0 will do
        v = a.mT @ (a @ v)
        v = (v / v.amax(1, keepdim=True).clamp_min(UNDERFLOW)).clamp_min(2.0**-20)
    ratios = ((a.mT @ (a @ v)) / v).amax((1, 2))
    return outward(ratios + UNDERFLOW, 2 * summed + a.shape[1] + a.shape[2] + 1)
