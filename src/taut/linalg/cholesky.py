r"""Bounds of largest eigenvalues from a Cholesky factor of each matrix.

A witness and a checker: the factor may come from anywhere, what is proven is its residual.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from taut.linalg.gram import GramKernel, self_product
from taut.linalg.rounding import U64, UNDERFLOW, gamma, outward

_STEPS = (2.0**-34, 2.0**-28, 2.0**-22, 2.0**-16)
"""How far above its estimate the largest eigenvalue is proven to be, relative to it: at first, and
where that fails."""

_RESIDUAL = 2.0**-24
"""Relative residual above which there was no factor."""

Matrices = Float[Tensor, "f m m"]
Pieces = Callable[[], Iterator[tuple[Matrices, Matrices | None]]]
"""Real and imaginary parts of many Hermitian matrices, in pieces; asked for twice."""


def torus_bound(gram: GramKernel, torus: tuple[int, ...]) -> float:
    r"""Bound of the largest eigenvalue of :math:`\hat K \hat K^*` over the frequencies of a torus.

    It is for all groups together, and never more than the one that needs no frequency.
    """

    def pieces() -> Iterator[tuple[Matrices, Matrices | None]]:
        for real, imag in gram.symbols(torus):
            yield real.flatten(0, 1), None if imag is None else imag.flatten(0, 1)

    error = (gram.evaluation_error() + gram.error).max()
    proven = eigenvalue_bound(pieces)
    return min(outward(proven + error, 2).item(), gram.largest.max().item())


def eigenvalue_bound(pieces: Pieces) -> Float[Tensor, ""]:
    r"""Bound of the largest eigenvalue of all matrices, at least 0.

    :math:`\lambda_{\max} \le \mu + \|\mu I - H - L L^*\|_F` for every L and :math:`\mu`, since
    :math:`L L^* \ge 0`; see `residual_bound`. An estimate of the eigenvalue gives :math:`\mu`;
    where it was too low, the factor does not exist, the residual shows it, and a better one is
    tried. H need not be exactly Hermitian: the bound is for the real part of :math:`v^* H v`.
    """
    mu, proven = _estimate(pieces), None
    for real, imag in pieces():
        bounds, mu = _prove(real, imag, mu)
        proven = bounds if proven is None else torch.maximum(proven, bounds)
    assert proven is not None
    return proven


def _prove(real: Matrices, imag: Matrices | None, mu: float) -> tuple[Tensor, float]:
    """Bound of the largest eigenvalue of all, and a better estimate `mu` for those to come."""
    proven = real.new_zeros(())
    for attempt, step in enumerate(_STEPS, start=1):
        level = mu * (1 + step)
        residual = residual_bound(real, imag, level)
        failed = residual > _RESIDUAL * level
        if attempt == len(_STEPS) or not bool(failed.any()):
            return torch.maximum(proven, outward(level + residual.max(), 1)), mu
        if not bool(failed.all()):
            proven = torch.maximum(proven, outward(level + residual[~failed].max(), 1))
        real, imag = real[failed], None if imag is None else imag[failed]
        mu = max(mu, _top(_matrices(real, imag)))
    raise AssertionError


def residual_bound(real: Matrices, imag: Matrices | None, mu: float) -> Float[Tensor, " f"]:
    r"""Bounds of :math:`\|\mu I - H - L L^*\|_F` for the Cholesky factors L that torch finds.

    An entry is a sum of at most 2 m products (see `self_product`) and two more terms, so its error
    is at most :math:`\gamma_{2m+2}` times the same sum of moduli; the Frobenius norms of those are
    at most :math:`\mu \sqrt m + \|H_r\|_F + \|L\|_F^2` for the real part and
    :math:`\|H_i\|_F + \|L\|_F^2` for the imaginary one. The slack is doubled for the rounding of
    its own operations. Both triangles of H count. Infinite where the factor is not finite.
    """
    m = real.shape[-1]
    gap = -real
    gap.diagonal(dim1=-2, dim2=-1).add_(mu)
    factor = torch.linalg.cholesky_ex(_matrices(gap, None if imag is None else -imag)).L
    parts = (factor, None) if imag is None else (factor.real, factor.imag)
    product_real, product_imag = self_product(*parts)
    square = _square(gap - product_real)
    sizes = mu * m**0.5 + _square(real).sqrt() + 2 * sum(_square(p) for p in parts if p is not None)
    if imag is not None and product_imag is not None:
        square = square + _square(imag + product_imag)
        sizes = sizes + _square(imag).sqrt()
    bound = square.sqrt() + 2 * gamma(2 * m + 2, U64) * sizes + UNDERFLOW
    return outward(bound, m * m + 5).where(bound.isfinite(), torch.inf)


def _square(matrices: Float[Tensor, "f m n"]) -> Float[Tensor, " f"]:
    return matrices.square().sum((1, 2))


def _matrices(real: Matrices, imag: Matrices | None) -> Shaped[Tensor, "f m m"]:
    return real if imag is None else torch.complex(real, imag)


# Estimates: nothing below this line is trusted.


def _estimate(pieces: Pieces, most: int = 4) -> float:
    """Largest eigenvalue of all: a short look at each, a long one at the most promising."""
    promising = []
    for real, imag in pieces():
        matrices = _matrices(real, imag)
        values = _ritz_values(matrices, 10)
        for index in values.topk(min(most, len(values))).indices.tolist():
            promising.append((values[index].item(), matrices[index].clone()))
        promising = sorted(promising, key=lambda pair: -pair[0])[:most]
    top = _top(torch.stack([matrix for _, matrix in promising]))
    return max(top, UNDERFLOW)


def _top(matrices: Shaped[Tensor, "f m m"]) -> float:
    if matrices.shape[-1] > 512:
        return _ritz_values(matrices, 200).max().item()
    return torch.linalg.eigvalsh(matrices).max().item()


def _ritz_values(matrices: Shaped[Tensor, "f m m"], steps: int) -> Float[Tensor, " f"]:
    """Largest Ritz value of each matrix, by Lanczos without reorthogonalisation."""
    m = matrices.shape[-1]
    if m <= 16:
        return torch.linalg.eigvalsh(matrices)[:, -1]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(m, 1, generator=generator, dtype=torch.float64, device="cpu")
    v = (start / start.norm()).to(matrices).expand(len(matrices), m, 1)
    before, beta = torch.zeros_like(v), matrices.new_zeros(len(matrices), 1, 1)
    diagonal, side = [], []
    for _ in range(steps):
        w = matrices @ v - beta * before
        alpha = (v.mH @ w).real
        w = w - alpha * v
        beta = w.norm(dim=1, keepdim=True).real
        diagonal.append(alpha.flatten())
        side.append(beta.flatten())
        before, v = v, w / beta.clamp_min(UNDERFLOW)
    below = torch.stack(side[:-1], 1).diag_embed(-1)
    return torch.linalg.eigvalsh(torch.stack(diagonal, 1).diag_embed() + below)[:, -1]
