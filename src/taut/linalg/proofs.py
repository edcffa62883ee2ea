"""Ways to bound the norm of a convolution or matrix, with what they cost and how sharp they are."""

import math
from dataclasses import replace
from functools import partial

from taut.linalg.bounds import (
    abs_norm_bound,
    conv_norm_bound,
    distinct,
    sampled_norm_bound,
    tap_norm_bound,
    tight_norm_bound,
)
from taut.linalg.embedding import embedding
from taut.linalg.geometry import AbstractConvolution
from taut.linalg.operator import NormBound, Proof
from taut.linalg.sampling import sampling_factor, sampling_grid

_SMALL = 2.0**29
"""Work in multiplications up to which no cheaper proof is offered."""

_BORDER = 1.02
"""How many times the norm that of the torus may be, at a guess, where zeros are padded."""

_DENSITIES = (8, 12, 16)
"""Samples for each degree of the Gram kernel: norms within 4.2%, 1.8% and 1.0% in 2-D."""


def conv_proofs(op: AbstractConvolution) -> tuple[Proof, ...]:
    """Proofs for one operator, from cheap to sharp.

    Small operators have `conv_norm_bound` at once; large ones `tap_norm_bound` (matrices: the norm
    of the moduli) and `sampled_norm_bound` before it, where these take half the time at most. Last
    comes `tight_norm_bound`, where zeros or copies at the border may be bounded more sharply.
    """
    op = distinct(op)
    torus, taps = _frequencies(op)
    work, last = _work(op, taps, torus), _at_the_border(op)
    loose = _BORDER if last else 1.0
    cheap = _cheap(op, taps, torus, loose) if work > _SMALL else []
    usual = Proof(partial(conv_norm_bound, op), work, loose, repeated=True)
    return (*cheap, usual, *(replace(proof, work=work + proof.work) for proof in last))


def _cheap(
    op: AbstractConvolution, taps: tuple[int, ...], torus: tuple[int, ...], loose: float
) -> list[Proof]:
    """Proofs from the taps side by side, or the moduli of a matrix, and from samples."""
    count, sides = math.prod(taps), min(op.kernel.shape[:2])
    degrees, work = tuple(k - 1 for k in taps), 2.0 * op.kernel.numel() * sides
    if count == 1:
        return [Proof(lambda: NormBound(abs_norm_bound(op), "norm of the moduli"), 0.0, sides**0.5)]
    proofs = [Proof(partial(tap_norm_bound, op), work, count**0.5 * loose)]
    for density in _DENSITIES:
        grid = sampling_grid(degrees, torus, density)
        work = _work(op, taps, grid)
        if 2 * work <= _work(op, taps, torus):
            factor = math.sqrt(sampling_factor(degrees, torus, grid))
            proofs.append(Proof(partial(sampled_norm_bound, op, density), work, factor * loose))
    return proofs


def _at_the_border(op: AbstractConvolution) -> tuple[Proof, ...]:
    """The proof that counts what zeros or copies at the border really do, where there are some."""
    pads, windows = any((*op.padding.left, *op.padding.right)), math.prod(op.kernel.shape[2:]) > 1
    zeros = op.padding.mode == "zeros" and (pads or windows)
    if not zeros and embedding(op)[2] == 1:
        return ()
    size = op.output_size
    work = 2.0 * op.kernel.numel() * math.prod(size) * max(size, default=1)
    return (Proof(partial(tight_norm_bound, op), work),)


def _frequencies(op: AbstractConvolution) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Torus and taps of the kernel without stride and dilation, as `conv_norm_bound` has them."""
    torus, stride, _ = embedding(op)
    taps, sizes = [], []
    for n, s, d, k in zip(torus, stride, op.dilation, op.kernel.shape[2:], strict=True):
        taps.append(k if s == 1 else -(-(d * (k - 1) + 1) // s))
        sizes.append(n // math.gcd(n, d) if s == 1 else n)
    return tuple(sizes), tuple(taps)


def _work(op: AbstractConvolution, taps: tuple[int, ...], grid: tuple[int, ...]) -> float:
    """Multiplications for the Gram kernel and for a proof at each frequency of a grid."""
    outputs = len(op.kernel) // op.groups
    inputs = op.kernel[0].numel() / math.prod(taps)
    small, large = sorted((outputs, max(1.0, inputs)))
    shifts = math.prod(2 * k - 1 for k in taps) // 2 + 1
    points = math.prod(grid) // 2 + 1 if shifts > 1 else 1
    gram = small**2 * large * math.prod(k * k for k in taps) / 2
    return op.groups * (gram + points * small**2 * (8 * small + 2 * shifts))
