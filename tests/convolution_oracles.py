"""Convolutions by index arithmetic: their matrix, which of them are orthogonal, what keeps them so.

Shares no code with the library. A `Case` is a layer with the size of its input; what is said of a
transposed layer is said of the convolution that it is the adjoint of, and turned round.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

Sizes = tuple[int, ...]
_NAMES = {
    (True, True): "both",
    (True, False): "rows",
    (False, True): "columns",
    (False, False): "neither",
}


@dataclass(frozen=True)
class Case:
    """Arguments of a layer, one number per axis, and the spatial size of its input."""

    c_in: int
    c_out: int
    kernel: Sizes
    stride: Sizes
    size: Sizes
    padding: str | Sizes = "same"
    dilation: Sizes = (1, 1, 1)
    groups: int = 1
    mode: str = "circular"
    transposed: bool = False
    output_padding: Sizes = (0, 0, 0)

    @property
    def axes(self) -> int:
        return len(self.kernel)

    def pads(self) -> list[str | int]:
        """The padding of each axis: `"same"` or a number."""
        if isinstance(self.padding, str):
            return ["same" if self.padding == "same" else 0] * self.axes
        return list(self.padding)

    def convolution(self) -> "Case":
        """The convolution that a transposed layer is the adjoint of; another layer itself."""
        if not self.transposed:
            return self
        sizes = zip(
            self.size,
            self.kernel,
            self.stride,
            self.dilation,
            self.pads(),
            self.output_padding,
            strict=False,
        )
        size = [
            n * s if p == "same" else (n - 1) * s + d * (k - 1) + 1 - 2 * p + more
            for n, k, s, d, p, more in sizes
        ]
        return replace(self, c_in=self.c_out, c_out=self.c_in, size=tuple(size), transposed=False)

    def lines(self) -> list["Line"]:
        """The convolution on each of its axes."""
        axes = zip(self.size, self.kernel, self.stride, self.dilation, self.pads(), strict=False)
        return [Line(*axis, self.mode) for axis in axes]


@dataclass(frozen=True)
class Line:
    """One axis of a convolution: n positions, k taps, stride s, dilation d."""

    n: int
    k: int
    s: int
    d: int
    padding: str | int
    mode: str

    @property
    def span(self) -> int:
        return self.d * (self.k - 1) + 1

    @property
    def sides(self) -> tuple[int, int]:
        if self.padding != "same":
            return int(self.padding), int(self.padding)
        total = max(self.span - self.s, 0)
        return total // 2, total - total // 2

    @property
    def domain(self) -> int:
        """Positions with the zeros that are added at the end, so that the stride divides them."""
        extended = self.padding == "same" or (self.mode == "circular" and self.padding > 0)
        return -(-self.n // self.s) * self.s if extended else self.n

    @property
    def outputs(self) -> int:
        return (self.domain + sum(self.sides) - self.span) // self.s + 1

    def padded(self) -> list[int | None]:
        """Which position of the input each padded position copies; None for a zero."""
        left, right = self.sides
        places = [self._source(i) for i in range(-left, self.domain + right)]
        return [i if i is not None and 0 <= i < self.n else None for i in places]

    def _source(self, i: int) -> int | None:
        last = self.domain - 1
        if 0 <= i <= last or self.mode == "zeros":
            return i
        if self.mode == "circular":
            return i % self.domain
        if self.mode == "replicate":
            return 0 if i < 0 else last
        return -i if i < 0 else 2 * last - i  # reflect

    def reads(self) -> list[list[int | None]]:
        """The position that each tap of each output reads; None for a zero."""
        padded = self.padded()
        return [
            [padded[self.s * j + self.d * t] for t in range(self.k)] for j in range(self.outputs)
        ]

    def factors(self) -> list[float]:
        """By what isometric padding multiplies each position first: 1 / sqrt(copies)."""
        if self.mode not in ("reflect", "replicate"):
            return [1.0] * self.n
        padded = self.padded()
        return [1 / math.sqrt(padded.count(i)) for i in range(self.n)]

    @property
    def fits(self) -> bool:
        """Whether there is an output, and a reflection stays inside the input."""
        reflects = self.mode == "reflect" and max(self.sides) >= self.domain
        return self.n > 0 and self.outputs > 0 and not reflects

    @property
    def copies(self) -> bool:
        return self.mode in ("reflect", "replicate") and sum(self.sides) > 0

    def keeps_rows(self) -> bool:
        """Whether each output is one of a periodic domain, with all that it reads there."""
        return not self.copies and all(None not in taps for taps in self.reads())

    def keeps_columns(self) -> bool:
        """Whether all outputs of a periodic domain that read an input are there."""
        if self.copies:
            return False
        if self.mode == "circular" and self.outputs * self.s == self.domain:
            return True
        left, reach = self.sides[0], self.n + self.span
        reading = [
            j
            for j in range(-reach, reach + 1)
            if any(0 <= self.s * j - left + self.d * t < self.n for t in range(self.k))
        ]
        outside = any(not 0 <= j < self.outputs for j in reading)
        wraps = self.mode == "circular" and sum(self.sides) > 0
        return not outside and not wraps


def slow_matrix(case: Case, weight: np.ndarray) -> np.ndarray:
    """The matrix of the layer without its bias, tap by tap; float64."""
    if case.transposed:
        return slow_matrix(case.convolution(), weight).T
    lines = case.lines()
    reads, factors = [line.reads() for line in lines], [line.factors() for line in lines]
    outputs = [line.outputs for line in lines]
    matrix = np.zeros((case.c_out, *outputs, case.c_in, *case.size))
    rows, columns = case.c_out // case.groups, case.c_in // case.groups
    for j in itertools.product(*map(range, outputs)):
        for t in itertools.product(*map(range, case.kernel)):
            place = [reads[axis][j[axis]][t[axis]] for axis in range(case.axes)]
            if None in place:
                continue
            factor = math.prod(factors[axis][place[axis]] for axis in range(case.axes))
            for g in range(case.groups):
                o, i = slice(g * rows, (g + 1) * rows), slice(g * columns, (g + 1) * columns)
                matrix[(o, *j, i, *place)] += factor * weight[(o, slice(None), *t)]
    return matrix.reshape(case.c_out * math.prod(outputs), -1)


def isometry(case: Case) -> str:
    """Whether orthonormal rows, columns, both or neither exist, on all periodic domains."""
    conv = case.convolution()
    inputs, outputs = conv.c_in // conv.groups, conv.c_out // conv.groups
    axes = list(zip(conv.kernel, conv.stride, conv.dilation, strict=False))
    # Taps a, b of one output meet the phases d a and d b of the stride: s / gcd(s, d) of them.
    read = math.prod(min(k, s // math.gcd(s, d)) for k, s, d in axes)
    whole = all(math.gcd(s, d) == 1 and k >= s for k, s, d in axes)
    rows = outputs <= inputs * read
    columns = whole and outputs >= inputs * math.prod(s for _, s, _ in axes)
    if case.transposed:
        rows, columns = columns, rows
    return _NAMES[rows, columns]


def only_shifts(case: Case) -> bool:
    """Whether one channel goes to one, in more than one tap: orthogonal kernels are shifts then."""
    conv = case.convolution()
    axes = list(zip(conv.kernel, conv.stride, conv.dilation, strict=False))
    phases = [min(k, s // math.gcd(s, d)) for k, s, d in axes]
    single = conv.c_in == conv.c_out == conv.groups and math.prod(phases) == 1
    return single and any(k > 1 and s // math.gcd(s, d) == 1 for k, s, d in axes)


def _kept(conv: Case, lines: list[Line]) -> tuple[bool, bool]:
    """Whether rows, and columns, that exist are kept on such axes."""
    kind = isometry(conv)
    rows = kind in ("rows", "both") and all(line.keeps_rows() for line in lines)
    return rows, kind in ("columns", "both") and all(line.keeps_columns() for line in lines)


def keeps_isometry(case: Case) -> bool:
    """Whether all singular values of an orthogonal layer are 1 on this size, with this padding."""
    conv = case.convolution()
    return any(_kept(conv, conv.lines()))


def promise(case: Case) -> str:
    """What an orthogonal layer keeps, with its padding, of all sizes that the stride divides."""
    kept = []
    for times in (1, 2, 3, 5, 16):
        size = tuple(times if case.transposed else times * s for s in case.stride)
        conv = replace(case, size=size).convolution()
        if all(line.fits for line in conv.lines()):
            kept.append(_kept(conv, conv.lines()))
    rows, columns = (all(sides) for sides in zip(*kept, strict=True))
    return _NAMES[(columns, rows) if case.transposed else (rows, columns)]
