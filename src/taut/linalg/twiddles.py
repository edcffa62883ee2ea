r"""Frequencies, and cosines and sines from integers alone: no library function is trusted."""

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taut._torch_private import cached_constants

Shifts = tuple[tuple[int, ...], ...]

TWIDDLE_ERROR = 2.0**-49
r"""Bound of :math:`|\hat w - e^{i \omega \cdot d}|` for what `twiddles` gives, on up to 3 axes.

An entry of the table is off by at most :math:`2^{-53}`, so a factor by less than 1.5 u; each of the
two complex products adds less than 3 u: 11 u in all, and less than 16 u with second-order terms.
"""

_BITS = 128
_SERIES_ERROR = Fraction(1, 1 << 110)
_CHUNK_BYTES = 1 << 23  # larger pieces leave the cache and take longer


def half_plane(torus: tuple[int, ...]) -> tuple[Int[Tensor, "f a"], Int[Tensor, " f"]]:
    """One of each pair of frequencies w, -w of a torus, and how often it counts (1 or 2)."""
    grid = torch.ones(torus, device="cpu").nonzero()
    size = grid.new_tensor(torus)
    weights = grid.new_tensor([math.prod(torus[a + 1 :]) for a in range(len(torus))])
    here, mirror = (grid * weights).sum(1), ((-grid % size) * weights).sum(1)
    return grid[here <= mirror], 1 + (here < mirror)[here <= mirror].long()


def cosine(k: int, n: int) -> tuple[int, int]:
    r"""Cosine and sine of :math:`2 \pi k / n`, times :math:`2^{128}`, within :math:`2^{18}`.

    The angle is reduced to :math:`x \in [0, \pi/2)` exactly, as an integer. Both Taylor series run
    in integers until a term is 0. A term is the last one times :math:`x^2 / (j (j + 1))`; its
    rounding down loses less than 1, and of the loss before it at most :math:`x^2 / 2 < 1.24` times
    once and less than half of it ever after, so that fewer than 40 terms lose less than 200;
    :math:`\pi` is within 2000, and no cosine moves faster than its angle.
    """
    quadrant, rest = divmod(4 * (k % n), n)
    angle = _pi() * rest // (2 * n)
    square = angle * angle >> _BITS
    even, odd = _series(1 << _BITS, square, 1), _series(angle, square, 2)
    return ((even, odd), (-odd, even), (-even, -odd), (odd, -even))[quadrant]


def _series(term: int, square: int, j: int) -> int:
    """`term` (1 - x^2 / (j (j + 1)) (1 - x^2 / ((j + 2) (j + 3)) (1 - ...)))."""
    total, sign = 0, 1
    while term:
        total += sign * term
        term = (term * square >> _BITS) // (j * (j + 1))
        sign, j = -sign, j + 2
    return total


@lru_cache(maxsize=1)
def _pi() -> int:
    """Machin (1706): pi / 4 = 4 arctan(1 / 5) - arctan(1 / 239). 28 and 9 terms, each within 3."""
    return 4 * (4 * _arctan_inverse(5) - _arctan_inverse(239))


def _arctan_inverse(x: int) -> int:
    power, total, j, sign = (1 << _BITS) // x, 0, 1, 1
    while power:
        total += sign * (power // j)
        power //= x * x
        j, sign = j + 2, -sign
    return total


def down_cosine(k: int, n: int) -> Fraction:
    r"""A rational just below :math:`\cos(2 \pi k / n)`."""
    return Fraction(cosine(k, n)[0], 1 << _BITS) - _SERIES_ERROR


@cached_constants
def _table(n: int) -> Float[Tensor, "n 2"]:
    """Cosines and sines of n equal turns; a Fraction becomes the nearest float."""
    entries = ([float(Fraction(v, 1 << _BITS)) for v in cosine(k, n)] for k in range(n))
    return torch.tensor(list(entries), dtype=torch.float64, device="cpu")


def fourier_matrix(n: int) -> Float[Tensor, "m m"]:
    r"""The matrix :math:`e^{-2 \pi i j k / n}` as a real one, from the right on (real, imaginary).

    Zeros are exact; other entries have a relative error below :math:`(1 + 2^{-50}) u`.
    """
    numbers = torch.arange(n, device="cpu")
    cos, sin = _table(n)[numbers[:, None] * numbers % n].unbind(-1)
    pairs = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)
    return pairs.flatten(2).flatten(0, 1)  # (n, 2, n, 2) -> (2 n, 2 n)


def twiddles(
    torus: tuple[int, ...], shifts: Shifts, entries: int
) -> Iterator[tuple[Float[Tensor, "f d"], Float[Tensor, "f d"]]]:
    r"""Real and imaginary parts of :math:`e^{i \omega \cdot d}` for shifts d, in pieces.

    One of each pair of frequencies :math:`\omega = 2 \pi j / N`, on the CPU, within
    `TWIDDLE_ERROR`. `entries` says how many numbers the caller makes of one frequency.
    """
    grid, _ = half_plane(torus)
    steps = grid.new_tensor(shifts).reshape(len(shifts), len(torus))
    for piece in grid.split(max(1, _CHUNK_BYTES // (16 * entries))):
        cos = torch.ones(len(piece), len(shifts), dtype=torch.float64, device="cpu")
        sin = torch.zeros_like(cos)
        for axis, n in enumerate(torus):
            c, s = _table(n)[piece[:, None, axis] * steps[:, axis] % n].unbind(-1)
            cos, sin = (c, s) if axis == 0 else (cos * c - sin * s, cos * s + sin * c)
        yield cos, sin
