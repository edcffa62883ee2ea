r"""Norms of balls: how far the unit ball of each reaches in l2, alone and through a matrix.

======  =====================  ==================================================  =============
norm    of D = diag(w)         of a matrix M with columns :math:`c_i`              of a row
======  =====================  ==================================================  =============
l2      :math:`\max w_i`       the spectral norm                                   l2
l1      :math:`\max w_i`       :math:`\max_i \|c_i\|`                              linf
linf    :math:`\|w\|`          at most :math:`\sqrt{\sum_{ij} |c_i \cdot c_j|}`    l1
======  =====================  ==================================================  =============

All are rounded up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.linalg.matrix import MatrixOperator
from taut.linalg.operator import DENSE_LIMIT
from taut.linalg.rounding import U64, gamma, outward, up_product, up_root, up_sum

__all__ = ["NORMS", "BallNorm"]

_TINY = 2.0**-500
"""Above what underflow loses in a root of squares."""


@final
@dataclass(frozen=True)
class BallNorm:
    """A norm of changes.

    Attributes:
        stretch: the largest l2 norm of D z for the positive entries of w.
        gain: the largest l2 norm of M z, or a bound of it.
        error: the most that columns which are off by 1 in l2 add to that, by their number.
        dual: the largest of |m z| for each row m.
    """

    stretch: Callable[[Tensor], float]
    gain: Callable[[Tensor], float]
    error: Callable[[int], float]
    dual: Callable[[Tensor], Tensor]


def _largest(weights: Tensor) -> float:
    return float(weights.max()) if len(weights) else 0.0


def _length(weights: Tensor) -> float:
    """The l2 norm; exactly the root of their number for ones."""
    if not len(weights) or not (weights != weights[0]).any():
        return up_product(up_root(float(len(weights))), _largest(weights))
    largest = _largest(weights)
    squares = outward((weights / largest).square().sum(), len(weights) + 4)
    return up_product(largest, up_root(float(squares)))


def _spectral(matrix: Tensor) -> float:
    matrix = matrix[matrix.abs().amax(1) > 0]
    return MatrixOperator(matrix).norm_bound().value if len(matrix) else 0.0


def _largest_column(matrix: Tensor) -> float:
    return up_sum(float(outward(matrix.square().sum(0).sqrt(), len(matrix) + 3).max()), _TINY)


def _from_box(matrix: Tensor) -> float:
    r"""The least of three bounds.

    From :math:`\|M z\|^2 = \sum_{ij} z_i z_j c_i \cdot c_j`, unless there are too many columns;
    from :math:`\sum_k (m_k \cdot z)^2` with rows m; and the spectral norm times the root of the
    number of columns.
    """
    rows, columns = matrix.shape
    squares = float(outward(matrix.abs().sum(1).square().sum(), 2 * columns + rows + 4))
    if columns**2 <= DENSE_LIMIT:  # the products of all columns
        lengths = float(outward(matrix.square().sum(0).sqrt().sum(), rows + columns + 4))
        products = float(outward((matrix.T @ matrix).abs().sum(), columns**2 + 2))
        rounded = up_product(gamma(rows + 2, U64), lengths, lengths)
        squares = min(squares, up_sum(products, rounded))
    from_sums = up_sum(up_root(squares), _TINY)
    return min(from_sums, up_product(_spectral(matrix), up_root(float(columns))))


def _row_norms(order: float) -> Callable[[Tensor], Tensor]:
    def norms(rows: Tensor) -> Tensor:
        sums = rows.norm(p=order, dim=-1)
        return outward(sums, rows.shape[-1] + 4) + _TINY

    return norms


NORMS = {
    "l2": BallNorm(_largest, _spectral, lambda n: up_root(float(n)), _row_norms(2.0)),
    "l1": BallNorm(_largest, _largest_column, lambda n: 1.0, _row_norms(float("inf"))),
    "linf": BallNorm(_length, _from_box, float, _row_norms(1.0)),
}
"""By name."""
