r"""A bound of the norm on every torus, for kernels that are nearly orthogonal up to a factor."""

import math
from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from taut.linalg.gram import GramKernel, self_product
from taut.linalg.rounding import U64, UNDERFLOW, gamma, outward, up
from taut.linalg.twiddles import down_cosine


def nearly_orthogonal(gram: GramKernel, excess: float) -> Bool[Tensor, " g"]:
    r"""Whether the defect may be below `excess` times :math:`\delta`; a hint, at little cost.

    A column of the defect :math:`\sum_d R_d e^{i \omega \cdot d} - \delta I` has, in the mean over
    all frequencies, the squared norm :math:`\sum_d \|R_d e_j\|^2` without :math:`\delta`.
    """
    delta = _mean(gram)
    squares = gram.shifted(delta).grams.square()
    columns = squares.sum((1, 2)) + squares[:, 1:].sum((1, 3))
    return columns.amax(1).sqrt() <= excess * delta


def defect_bound(gram: GramKernel) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    r"""Bound of the squared norm from the defect :math:`\hat E = \hat K \hat K^* - \delta I`.

    :math:`\|\hat K(\omega)\|^2 \le \delta + \|\hat E(\omega)\|` for each number :math:`\delta`; it
    is the mean of the diagonal here. On a fixed grid
    :math:`\|\hat E\|^2 = \|\hat E \hat E^*\| \le \|\hat E \hat E^*\|_F`; everywhere else the
    spectral norm is at most `riesz_factor` times what it is on the grid. The factor multiplies the
    defect alone, so that it costs next to nothing where the defect is small.

    Per group the bound of the squared norm, and :math:`\delta`: the squared norm on the infinite
    lattice is at least that, so that their ratio says how tight the bound is.
    """
    delta = _mean(gram)
    defect = gram.shifted(delta)
    grid = tuple(max(1, 4 * degree) for degree in gram.degrees)
    norms = torch.zeros_like(delta)
    for real, imag in defect.symbols(grid):
        norms = torch.maximum(norms, _spectral(real, imag).amax(1))
    defects = norms + defect.evaluation_error()
    factor = riesz_factor(gram.degrees, grid)
    return outward(delta + (defects * factor + gram.error), 5), delta


def _mean(gram: GramKernel) -> Float[Tensor, " g"]:
    return gram.grams[:, 0].diagonal(dim1=-2, dim2=-1).mean(-1)


def _spectral(
    real: Float[Tensor, "g f m m"], imag: Float[Tensor, "g f m m"] | None
) -> Float[Tensor, "g f"]:
    r"""Bound of the spectral norm: :math:`\|E\|^2 \le \|E E^*\|_F`, with `self_product`'s error."""
    m = real.shape[-1]
    square = _sum_squares(*self_product(real, imag)).sqrt()
    slack = 2 * gamma(2 * m, U64) * _sum_squares(real, imag)
    return outward((square + slack).sqrt() + UNDERFLOW, 2 * m * m + 5)


def _sum_squares(real: Tensor, imag: Tensor | None) -> Tensor:
    total = real.square().sum((-2, -1))
    return total if imag is None else total + imag.square().sum((-2, -1))


def riesz_factor(degrees: tuple[int, ...], grid: tuple[int, ...]) -> float:
    r"""By how much a real trigonometric polynomial can exceed its largest modulus on a grid.

    :math:`\prod_a 1 / \cos(\pi \deg_a / N_a)`, rounded up. M. Riesz: if T of degree k has the
    largest modulus M at t, then :math:`|T(t + s)| \ge M \cos(k s)` for :math:`|s| \le \pi / k`;
    some grid point is within :math:`\pi / N`. Once per axis. It holds for
    :math:`v^* \hat E(\omega) v` with each v, hence for the spectral norm of a Hermitian
    :math:`\hat E`. The grid has more than twice as many points as the degree on each axis.

    Reference:
        M. Riesz (1914), *Eine trigonometrische Interpolationsformel und einige Ungleichungen fuer
        Polynome*; Ehlich, Zeller (1964), *Schwankung von Polynomen zwischen Gitterpunkten*.
    """
    cosines = [down_cosine(k, 2 * n) for k, n in zip(degrees, grid, strict=True) if k]
    return up(1 / math.prod(cosines, start=Fraction(1)))
