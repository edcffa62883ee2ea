"""Lipschitz constants of the differences of two logits."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from taut.linalg.rounding import U64, UNDERFLOW, gamma, outward, power_of_two

__all__ = ["UP_SQRT2", "pairwise_constants"]

UP_SQRT2 = math.nextafter(math.sqrt(2.0), math.inf)
"""The float after the one nearest to the root of 2: not below it, which math.sqrt(2) may be."""

_LOOSE = 2.0**-40
"""Relative error of a squared norm above which rows count as close."""

_PIECE = 1 << 20
"""Entries of the rows that are compared at once."""


def pairwise_constants(weight: Float[Tensor, "k n"], features: float) -> Float[Tensor, "k k"]:
    r"""Constants :math:`L_{ij}` of :math:`z_i - z_j` for logits :math:`z = W f(x) + b`.

    :math:`z_i - z_j` moves by at most :math:`\|w_i - w_j\| L_f` for features that are
    :math:`L_f`-Lipschitz. Never more than :math:`\sqrt 2 \|W\| L_f`, what the logits as one map
    give, since :math:`w_i - w_j = W^\top (e_i - e_j)`.

    Rounded up: see `_from_products` and `_from_differences`, which is for rows that nearly agree.

    Args:
        weight: rows of the last layer.
        features: constant of what it is applied to.

    Returns:
        Constants in float64; exactly 0 for equal rows, infinite on overflow.

    Example:
        >>> pairwise_constants(torch.eye(2), 1.0).round(decimals=4)
        tensor([[0.0000, 1.4142],
                [1.4142, 0.0000]], dtype=torch.float64)
    """
    weight = weight.detach().double().cpu()
    scale = power_of_two(weight) or 1.0
    norms, close = _from_products(weight / scale)
    norms = _up_product(norms, scale)
    for pairs in close.nonzero().split(max(1, _PIECE // max(1, weight.shape[1]))):
        first, second = pairs.unbind(1)
        norms[first, second] = _from_differences(weight[first] - weight[second])
    constants = _up_product(norms, features).nan_to_num(math.inf, math.inf)
    return constants.where(norms != 0, 0.0)


def _from_products(
    weight: Float[Tensor, "k n"],
) -> tuple[Float[Tensor, "k k"], Bool[Tensor, "k k"]]:
    r"""Bounds of the norms of differences by one product of matrices, and where they are loose.

    :math:`\|w_i - w_j\|^2 = g_{ii} + g_{jj} - 2 g_{ij}`. A product passes at most n roundings and
    two sums, and :math:`2 |w_i| \cdot |w_j| \le \|w_i\|^2 + \|w_j\|^2`, so that the error is at
    most :math:`2 \gamma_{n+2}` times the latter.
    """
    products = weight @ weight.T
    own = products.diagonal()
    sums = own[:, None] + own
    squares = sums - 2 * products
    n = weight.shape[1]
    error = outward(2 * gamma(n + 2, U64) * sums + UNDERFLOW, n + 4)
    close = ~(error <= _LOOSE * squares)
    return outward((squares.clamp_min(0) + error).sqrt(), 2), close


def _from_differences(rows: Float[Tensor, "p n"]) -> Float[Tensor, " p"]:
    """Bounds of the norms of rounded differences.

    A difference passes one rounding, a square of it three in all, their sum of n one less than n,
    the root one and the sum after it one. Rows are scaled so that no square over- or underflows.
    """
    largest = rows.abs().amax(1)
    scale = largest / largest.frexp().mantissa  # powers of two, exactly
    norms = (rows / scale[:, None]).square().sum(1).sqrt() + UNDERFLOW
    norms = _up_product(outward(norms, rows.shape[1] + 4), scale)
    return norms.nan_to_num(math.inf, math.inf).where(largest != 0, 0.0)


def _up_product(values: Tensor, factor: Tensor | float) -> Tensor:
    """Not below the exact product, also where it underflows, which no count of roundings covers."""
    return (values * factor).nextafter(torch.full_like(values, math.inf))
