"""How times grow: cases that differ in one number, and the exponent of a power law through them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from taut.benchmark.cases import Case, LayerCase, parse_case
from taut.benchmark.rows import Row

AXES = ("channels", "kernel size", "batch", "depth")
_LEAST = 3


@final
@dataclass(frozen=True)
class Sweep:
    """Times of contenders over one number of a case, the others being equal.

    Args:
        axis: the number, one of `AXES`.
        fixed: the others, in words.
        lines: by contender, pairs of the number and the seconds, rising.
    """

    axis: str
    fixed: str
    lines: dict[str, list[tuple[int, float]]]


def sweeps(rows: Sequence[Row]) -> list[Sweep]:
    """The longest sweep along each axis, where there are three cases or more.

    Args:
        rows: of any cases.

    Example:
        >>> rows = [Row(f"{c}x{c}x3@16b16", "plain", train=c**2.0) for c in (8, 16, 32)]
        >>> [(x.axis, x.fixed, len(x.lines["plain"])) for x in sweeps(rows)]
        [('channels', '3x3, 16x16 images, batch 16', 3)]
    """
    found = []
    for axis in AXES:
        groups: dict[str, dict[int, str]] = {}
        for name in dict.fromkeys(row.case for row in rows):
            place = _place(parse_case(name), axis)
            if place is not None:
                groups.setdefault(place[1], {})[place[0]] = name
        fixed, longest = max(groups.items(), key=lambda x: len(x[1]), default=("", {}))
        if len(longest) >= _LEAST:
            found.append(Sweep(axis, fixed, _lines(rows, longest)))
    return found


def exponent(points: Sequence[tuple[int, float]]) -> float | None:
    """The slope of the line through logarithms, by least squares; None with less than two.

    Example:
        >>> round(exponent([(1, 3.0), (2, 12.0), (4, 48.0)]), 6)
        2.0
    """
    if len(points) < 2:
        return None
    xs, ys = ([math.log(p[i]) for p in points] for i in range(2))
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mx) ** 2 for x in xs)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / spread


def growth(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Fitted exponents by axis and contender.

    Example:
        >>> growth([])
        {}
    """
    return {
        sweep.axis: {name: exponent(points) for name, points in sweep.lines.items()}
        for sweep in sweeps(rows)
    }


def _lines(rows: Sequence[Row], cases: dict[int, str]) -> dict[str, list[tuple[int, float]]]:
    times = {(row.contender, row.case): row.train for row in rows}
    lines: dict[str, list[tuple[int, float]]] = {}
    for name in dict.fromkeys(row.contender for row in rows):
        taken = [(x, times.get((name, case))) for x, case in sorted(cases.items())]
        points = [(x, seconds) for x, seconds in taken if seconds is not None]
        if len(points) > 1:
            lines[name] = points
    return lines


def _place(case: Case, axis: str) -> tuple[int, str] | None:
    """The number along an axis, and all the others in words; None off the axis."""
    if isinstance(case, LayerCase):
        return _layer_place(case, axis)
    channels, size, _ = case.input_shape
    if case.architecture != "stack" or axis != "depth":
        return None
    return case.depth, f"3x3, {channels} channels, {size}x{size} images, batch {case.batch}"


def _layer_place(case: LayerCase, axis: str) -> tuple[int, str] | None:
    image = f"{case.size}x{case.size} images"
    stride = f", stride {case.stride}" if case.stride > 1 else ""
    channels = f"{case.inputs} to {case.outputs} channels"
    taps = f"{case.kernel}x{case.kernel}{stride}"
    if not case.kernel:
        return None
    if axis == "channels" and case.inputs == case.outputs:
        return case.inputs, f"{taps}, {image}, batch {case.batch}"
    if axis == "kernel size":
        return case.kernel, f"{channels}{stride}, {image}, batch {case.batch}"
    if axis == "batch":
        return case.batch, f"{taps}, {channels}, {image}"
    return None
