r"""What an exact orthogonal layer costs at the least: operations, bytes, and the time for both.

Counted for one training step of a layer: forward, gradient of the input, gradient of the raw
parameters. A product of (a, b) with (b, c) is 2abc operations; no Strassen. The bytes are a lower
bound of any implementation. The operations are those of the cheapest direct route known to us, the
plain layer's own share included; there is no proof that another one cannot take fewer.

**A basis** of an m x n raw tensor: its Gram matrix, by symmetry :math:`m n^2`; the Cholesky factor,
:math:`n^3 / 3`; the inverse of a triangle applied, :math:`m n^2`. Backwards: half of
:math:`G^\top Q`, :math:`m n^2`; Q times a symmetric matrix, :math:`2 m n^2`; the triangle again,
:math:`m n^2`. In all :math:`6 m n^2 + n^3 / 3`.

**A k x k convolution** of c = max, n = min channels (after downsampling) and N positions has
one raw tensor (c, n) and 2(k - 1) of (c, c/2). Then either

- the kernel is built: growing by one tap along an axis takes :math:`2 n c^2` for each tap there is,
  and twice that backwards; the plain convolution follows, :math:`6 N k^2 c n`; or
- the factors are applied: :math:`2 N c n` and :math:`2 N c^2` for each of the 2(k - 1) steps, and
  twice that backwards. For a 3x3 layer of equal channels :math:`10 N c^2` against
  :math:`18 N c^2` of the plain one.

**A dense layer** of a raw tensor (m, n) and batch N needs no basis. Either :math:`x A S^{-1}`: the
plain layer's :math:`6 N m n`, Gram matrix and factor, :math:`3 N n^2` for triangles on the batch,
:math:`2 m n^2` for the gradient of the Gram matrix; or n reflections applied one after the other,
:math:`4 N m n - 2 N n^2`, and twice that backwards.

**Bytes**: the input is read forwards and backwards and its gradient written, the output written and
its gradient read, the raw tensors read and their gradients written.
"""

import time
from typing import NamedTuple

import torch

from experiments.speed._cases import Case, LayerCase
from experiments.speed._spectra import parts
from experiments.speed._timing import TimingSettings, Work, seconds_of


class Rates(NamedTuple):
    """What a machine reaches: operations of a product, bytes moved, each per second."""

    product: float
    memory: float


class Floor(NamedTuple):
    """Operations and bytes."""

    flops: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        """The longer of the two times, were both perfectly overlapped."""
        return max(self.flops / rates.product, self.bytes / rates.memory)


def floor(case: Case) -> Floor:
    """The floor of a case, as the head of this file derives it; of a net, the sum of its layers'.

    >>> plain = 3 * 2 * 4096 * 9 * 256**2
    >>> floor(LayerCase(256, 256, 3)).flops / plain < 1
    True
    """
    if isinstance(case, LayerCase):
        if case.kernel % case.stride:
            raise ValueError("there is no floor where the stride does not divide the kernel size")
        flops = _convolution(case) if case.kernel else _dense(case)
        return Floor(flops, 4.0 * _traffic(case))
    floors = [floor(part) for _, part in parts(case.build(), case)]
    return Floor(sum(x.flops for x in floors), sum(x.bytes for x in floors))


def plain_flops(case: LayerCase) -> float:
    """Operations of the plain layer: forward, and two gradients of as many."""
    taps = max(1, case.kernel) ** 2
    return 6.0 * case.positions * case.inputs * case.outputs * taps


def measured_rates(settings: TimingSettings) -> Rates:
    """The best rate of a few large products, and that of a copy.

    The products are `@` of two square matrices, and a 1x1 and a 3x3 convolution by the convolution
    library.
    """
    place = settings.place
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    n = 4096 if place.type == "cuda" else 1024
    a = torch.randn(n, n, device=place, dtype=dtype)
    image = a.reshape(1, n, n, 1).contiguous(memory_format=torch.channels_last)
    kernel = a.reshape(n, n, 1, 1).contiguous(memory_format=torch.channels_last)
    wide = torch.randn(n // 64, 256, 16, 16, device=place, dtype=dtype)
    taps = torch.randn(256, 256, 3, 3, device=place, dtype=dtype)
    runs: tuple[tuple[float, Work], ...] = (
        (2.0 * n**3, lambda: a @ a),
        (2.0 * n**3, lambda: torch.conv2d(image, kernel)),
        (2.0 * taps.numel() * len(wide) * 14**2, lambda: torch.conv2d(wide, taps)),
    )
    tensor, copy = torch.zeros(2, 1 << 25, device=place)
    with torch.no_grad():
        product = max(flops / _best(run, place) for flops, run in runs)
        moved = _best(lambda: copy.copy_(tensor), place)
    return Rates(product, 8.0 * tensor.numel() / moved)


def _best(run: Work, place: torch.device) -> float:
    """The shortest time of what 0.3 seconds allow, and of three."""
    times, end = [], time.monotonic() + 0.3
    while len(times) < 3 or time.monotonic() < end:
        times.append(seconds_of(run, place))
    return min(times)


def _convolution(case: LayerCase) -> float:
    narrow, wide = sorted((case.inputs * case.stride**2, case.outputs))
    growth = [axis for _ in range(case.kernel // case.stride - 1) for axis in range(2)]
    half, taps, grown = wide // 2, [1, 1], 0.0
    for axis in growth:
        grown += 3 * 4.0 * taps[0] * taps[1] * narrow * wide * half
        taps[axis] += 1
    applied = 3 * case.positions * (2.0 * wide * narrow + len(growth) * 4.0 * wide * half)
    bases = _basis(wide, narrow) + len(growth) * _basis(wide, half)
    return bases + min(grown + plain_flops(case), applied)


def _dense(case: LayerCase) -> float:
    narrow, wide = sorted((case.inputs, case.outputs))
    gram = 3.0 * wide * narrow**2 + narrow**3 / 3 + 3.0 * case.batch * narrow**2
    reflections = 3 * case.batch * (4.0 * wide * narrow - 2.0 * narrow**2)
    return min(plain_flops(case) + gram, reflections)


def _basis(rows: int, columns: int) -> float:
    return 6.0 * rows * columns**2 + columns**3 / 3


def _traffic(case: LayerCase) -> float:
    """Numbers read and written."""
    narrow, wide = sorted((case.inputs * case.stride**2, case.outputs))
    steps = 2 * (case.kernel // case.stride - 1) if case.kernel else 0
    raws = wide * narrow + steps * wide * (wide // 2)
    x = case.positions * case.inputs * case.stride**2
    y = case.positions * case.outputs
    return 3.0 * x + 2.0 * y + 2.0 * raws
