r"""A bound of the norm of convolutions with zero padding, tighter than that of their torus.

Such an operator T is a convolution C on a torus, on inputs that are zero at the border. C has a few
singular values above the norm of T; a witness shows that none of them is one of T.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from taut.linalg.cholesky import residual_bound
from taut.linalg.geometry import AbstractConvolution
from taut.linalg.gram import GramKernel, gram_kernel, self_product
from taut.linalg.rounding import (
    U64,
    UNDERFLOW,
    gamma,
    outward,
    up_divide,
    up_product,
    up_root,
    up_sum,
)
from taut.linalg.torus import Fields, TorusPart, torus_part
from taut.linalg.twiddles import half_plane
from taut.linalg.witness import columns, mode_fields, norm_estimate, witness

_STEPS = (2.0**-21, 2.0**-18, 2.0**-15)
"""How far above its estimate the norm is proven to be, relative to it: at first, and where that
fails."""

_BELOW = 1 - 2.0**-28
"""Squared singular values are proven to be this much below a squared level, which leaves room for
the rounding of the proof."""

_RESIDUAL = 2.0**-24
"""Relative residual above which there was no Cholesky factor."""

_MODES = 64
"""Largest number of singular values against which a witness is tried."""

_WORK = 2**37
"""A witness is tried where the products in one application of C, times the largest size of the
torus, are at most so many."""


def border_bound(op: AbstractConvolution, most: float) -> float | None:
    r"""Bound of the norm of a convolution with zero padding, where one below `most` is proven.

    Let T = P C E for a torus operator C and the outputs P and inputs E of T, and
    :math:`J = (s I, -C; -C^*, s I)`. If at most q singular values of C are above s, and for q
    vectors Z the smallest eigenvalue of :math:`-Z^* J Z` is at least g > 0, then
    :math:`\|T\| \le s + \|R\|^2 / g`, R the rows of J Z that belong to outputs and inputs of T.
    The proof is in `docs/proofs.md`. Z is the space of those singular values less what T sees of
    it, so that R vanishes up to rounding; but wherever Z comes from, the conclusion holds.

    The entries of the kernel are at most 2. None where C is too large to try.
    """
    part = torus_part(op)
    if part is None or _work(part) > _WORK:
        return None
    gram, estimate = gram_kernel(part.kernel), norm_estimate(part)
    for step in _STEPS:
        s = estimate * (1 + step)
        if not 0 < s < most:
            return None
        bound = _proven(part, gram, s)
        if bound < min(most, s * (1 + step)):
            return bound
    return None


def _work(part: TorusPart) -> int:
    return 2 * part.kernel.numel() * math.prod(part.size) * max(part.size, default=1)


def _proven(part: TorusPart, gram: GramKernel, s: float) -> float:
    """What the theorem gives at s; infinite where it does not apply."""
    count, modes = _modes_above(part, gram, s)
    if count is None or not modes:
        return s if count == 0 else math.inf
    fields = (torch.cat(side) for side in zip(*modes, strict=True))
    return _witnessed(part, gram, s, count, *witness(part, s, *fields))


def _modes_above(
    part: TorusPart, gram: GramKernel, s: float
) -> tuple[int | None, list[tuple[Fields, Fields]]]:
    r"""How many singular values of C are above s at most, and fields for them; None for too many.

    If :math:`\hat H - D \preceq s^2` at a frequency, D positive of rank m, then at most m
    eigenvalues of :math:`\hat H` are above :math:`s^2`. A frequency that is not its own mirror
    counts twice.
    """
    level = s * s * _BELOW
    error = up_sum((gram.evaluation_error() + gram.error).max().item(), UNDERFLOW)
    grid, counts = half_plane(part.size)
    modes: list[tuple[Fields, Fields]] = []
    count = place = 0
    for real, imag in gram.symbols(part.size):
        if imag is None:
            return None, []
        rests = residual_bound(real.flatten(0, 1), imag.flatten(0, 1), level)
        rests = rests.unflatten(0, real.shape[:2])
        for group, at in (~(rests <= _RESIDUAL * level)).nonzero().tolist():
            vectors, rests[group, at] = _deflated(real[group, at], imag[group, at], level)
            frequency, twice = grid[place + at].tolist(), int(counts[place + at])
            count += twice * vectors.shape[1]
            if count > _MODES:
                return None, []
            modes.append(mode_fields(part, group, frequency, vectors, mirrored=twice > 1))
        if sum(map(Fraction, (level, rests.max().item(), error))) > Fraction(s) ** 2:
            return None, []
        place += real.shape[1]
    return count, modes


def _deflated(real: Tensor, imag: Tensor, level: float) -> tuple[Tensor, float]:
    """Eigenvectors of the eigenvalues at the level or above, and the residual without them.

    The residual is that of H - V V^*, which is computed with an error of at most the slack.
    """
    values, vectors = torch.linalg.eigh(torch.complex(real, imag))
    above = values > level * (1 - _RESIDUAL / 2)
    vectors = vectors[:, above]
    scaled = vectors * (values[above] - level / 2).clamp_min(0).sqrt()
    outer_real, outer_imag = self_product(scaled.real, scaled.imag)
    assert outer_imag is not None
    rest = residual_bound((real - outer_real)[None], (imag - outer_imag)[None], level)
    sizes = real.norm() + imag.norm() + scaled.abs().square().sum()
    slack = 4 * gamma(2 * scaled.shape[1] + 2, U64) * sizes + UNDERFLOW
    return vectors, outward(rest + slack, real.numel() + 8).item()


def _witnessed(
    part: TorusPart, gram: GramKernel, s: float, count: int, a: Fields, b: Fields
) -> float:
    r"""Return s + |R|^2 / g for `count` vectors Z = (a, b); infinite unless g > 0.

    Rounding is included.

    An entry of J Z is a sum of at most n products and one more: with A the norm of C with moduli
    for entries, J Z is off by at most :math:`\gamma_{n+2} (s + A) \|Z\|_F`; the last -Z^* J Z by
    :math:`\|Z\|_F` times that, and :math:`\gamma_M \|Z\|_F \|J Z\|_F` for its sums of M products.
    """
    z, j = columns(a, b), columns(s * a - part.forward(b), s * b - part.adjoint(a))
    inside = columns(part.outputs.expand_as(a), part.inputs.expand_as(b))
    terms = part.kernel[0, 0, 0].numel() * max(part.kernel.shape[1:3])
    absolute = up_root(gram.largest.max().item())
    size = _norm(z)
    off = up_sum(up_product(gamma(terms + 2, U64), up_sum(s, absolute), size), UNDERFLOW)
    rest = up_sum(_norm(inside * j), off)
    identity = torch.eye(len(z), dtype=z.dtype, device=z.device)
    away = _norm(z @ j.T + identity)
    slack = up_product(size, up_sum(off, up_product(gamma(z.shape[1] + 1, U64), _norm(j))))
    least = math.nextafter(1 - up_sum(away, slack, UNDERFLOW), -math.inf)
    if not (least > 0 and len(z) == count):
        return math.inf
    return up_sum(s, up_divide(up_product(rest, rest), least))


def _norm(values: Tensor) -> float:
    """Frobenius norm, never below the exact one; each entry may have been rounded once."""
    return outward(values.square().sum().sqrt() + UNDERFLOW, values.numel() + 6).item()
