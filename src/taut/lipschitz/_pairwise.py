"""Lipschitz constants of the differences of two logits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["UP_SQRT2", "pairwise_constants"]

UP_SQRT2 = math.nextafter(math.sqrt(2.0), math.inf)
"""The float after the one nearest to the root of 2: not below it, which math.sqrt(2) may be."""

_OUTWARD = 1 + 1e-12  # rounding of a difference and a norm of at most 1e3 entries, many times over


def pairwise_constants(weight: Float[Tensor, "k n"], features: float) -> Float[Tensor, "k k"]:
    r"""Constants :math:`L_{ij}` of :math:`z_i - z_j` for logits :math:`z = W f(x) + b`.

    :math:`z_i - z_j` moves by at most :math:`\|w_i - w_j\| L_f` for features that are
    :math:`L_f`-Lipschitz. Never more than :math:`\sqrt 2 \|W\| L_f`, what the logits as one map
    give, since :math:`w_i - w_j = W^\top (e_i - e_j)`.

    Args:
        weight: rows of the last layer.
        features: constant of what it is applied to.

    Example:
        >>> pairwise_constants(torch.eye(2), 1.0).round(decimals=4)
        tensor([[0.0000, 1.4142],
                [1.4142, 0.0000]], dtype=torch.float64)
    """
    weight = weight.double().cpu()
    norms = torch.stack([_norms(weight - row) for row in weight])
    return norms * features * _OUTWARD


def _norms(rows: Tensor) -> Tensor:
    """Norms of rows, scaled so that no square underflows."""
    largest = rows.abs().amax(1)
    scale = torch.where(largest > 0, largest, 1.0)
    return torch.linalg.vector_norm(rows / scale[:, None], dim=1) * scale
