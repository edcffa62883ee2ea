"""Lipschitz constants of the differences of two logits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.rounding import UNDERFLOW, outward

__all__ = ["UP_SQRT2", "pairwise_constants"]

UP_SQRT2 = math.nextafter(math.sqrt(2.0), math.inf)
"""The float after the one nearest to the root of 2: not below it, which math.sqrt(2) may be."""


def pairwise_constants(weight: Float[Tensor, "k n"], features: float) -> Float[Tensor, "k k"]:
    r"""Constants :math:`L_{ij}` of :math:`z_i - z_j` for logits :math:`z = W f(x) + b`.

    :math:`z_i - z_j` moves by at most :math:`\|w_i - w_j\| L_f` for features that are
    :math:`L_f`-Lipschitz. Never more than :math:`\sqrt 2 \|W\| L_f`, what the logits as one map
    give, since :math:`w_i - w_j = W^\top (e_i - e_j)`.

    Rounded up: a difference passes one rounding, a square of it three in all, their sum of n one
    less than n, the root one and the sum after it one. Rows are scaled so that no square
    over- or underflows.

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
    return torch.stack([_constants(weight - row, features) for row in weight])


def _constants(rows: Float[Tensor, "k n"], features: float) -> Float[Tensor, " k"]:
    largest = rows.abs().amax(1)
    scale = largest / largest.frexp().mantissa  # powers of two, exactly
    norms = (rows / scale[:, None]).square().sum(1).sqrt() + UNDERFLOW
    infinity = torch.full_like(norms, math.inf)
    constants = outward(norms, rows.shape[1] + 4)
    for factor in (scale, features):  # a product may underflow, hence no count of roundings
        constants = (constants * factor).nextafter(infinity)
    return constants.nan_to_num(math.inf, math.inf).where(largest != 0, 0.0)
