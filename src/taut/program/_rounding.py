"""How far computed operations may be from the exact ones."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taut.linalg.operator import AbstractOperator
from taut.linalg.rounding import U64, gamma, up_product, up_root, up_sum
from taut.program._program import Site
from taut.program._result import UnprovenError

__all__ = ["EXACT", "Rounding", "norm_upper", "operator_rounding"]


@final
@dataclass(frozen=True)
class Rounding:
    r"""Bound of the rounding error of an operation.

    Let f be the operation in real arithmetic and :math:`\hat f` the same as it is executed with
    unit roundoff u, in any order of summation, with or without fused operations. Promised is

    .. math:: |\hat f(x) - f(x)| \le \gamma_m (|W| |x| + |c|) \quad\text{entry by entry}

    up to underflow, with :math:`\gamma_m = m u / (1 - m u)`, a matrix :math:`|W|` of norm at most
    `absolute`, and :math:`|f(x)| \le L |x| + \|c\|` for the Lipschitz constant L of its gains.

    Attributes:
        count: how many roundings (m) any number passes on its way to an output; 0 if outputs are
            copies of inputs, or of their absolute values, whatever the precision.
        absolute: bound of the norm of the map with absolute values for entries. No intermediate
            result is larger than `absolute` times the norm of the input plus `constant`.
        constant: l2 norm of what is added to the image of the input.
        squares: whether intermediate results are as large as the square of that instead.

    Example:
        >>> Rounding(2, 3.0).constant
        0.0
    """

    count: int
    absolute: float
    constant: float = 0.0
    squares: bool = False


EXACT = Rounding(0, 0.0)
"""Of operations that only choose among their inputs and the absolute values of them; f(0) = 0."""


def operator_rounding(operator: AbstractOperator, site: Site) -> Rounding:
    r"""Rounding of a sum of products and a bias, whatever the order of summation.

    An output is a sum of n products and a bias. A product passes at most 1 multiplication and n
    additions, the bias at most n additions; each is a factor :math:`1 + \delta` with
    :math:`|\delta| \le u` (Higham 2002, lemma 3.1): m = n + 1 will do, and one more is to spare.
    The bias may not be counted for less: a product of matrices that starts from it rounds it once
    for each block.
    """
    bias = site.tensors.get("bias")
    constant = 0.0
    if bias is not None:
        copies = site.entries[1] // bias.numel()
        constant = up_product(norm_upper(bias), up_root(float(copies)))
    return Rounding(operator.fan_in + 2, operator.abs_norm_bound(), constant)


def norm_upper(values: Tensor) -> float:
    """The l2 norm of finite numbers, never below the exact one.

    Example:
        >>> 5.0 <= norm_upper(torch.tensor([3.0, 4.0])) < 5.0 + 1e-12
        True
    """
    wide = values.detach().to("cpu", torch.float64).flatten()
    largest = wide.abs().max().item() if len(wide) else 0.0
    if not math.isfinite(largest):
        raise UnprovenError("its bias, or another constant, holds NaN or Inf")
    if largest == 0.0:
        return 0.0
    square = (wide / largest).square().sum().item()
    # Squares that underflow are below 2^-1000 of the largest, which is 1.
    factor = up_sum(1.0, gamma(len(wide) + 4, U64), 2.0**-60)
    return up_product(largest, up_root(up_product(square, factor)))
