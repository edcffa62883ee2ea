"""Copies, convolutions and matrices as steps."""

import math
from typing import Any

import numpy as np
import torch

from taut.playground._rules import by_channel, grid_of, numbers_of, padded, rule
from taut.playground._steps import Steps
from taut.program import Site, operation

_COPIES = (
    "reshape", "permute", "flip", "roll", "slice", "take", "repeat", "pad", "pixel_unshuffle",
    "pixel_shuffle", "upsample", "PadToMultiple1d", "PadToMultiple2d", "PadToMultiple3d",
)  # fmt: skip


@rule(*_COPIES)
def _copy(steps: Steps, site: Site, x: list[int]) -> int:
    """By the numbers of the entries, which the operation itself moves."""
    numbers = torch.arange(1.0, math.prod(site.shapes[0]) + 1, dtype=torch.float64)
    numbers = numbers.reshape(1, *site.shapes[0])
    filled = operation(site).run(site, 0 * numbers)
    places = operation(site).run(site, numbers) - filled
    value = steps.gather(x[0], places.numpy().round().astype(int) - 1)
    if not filled.any():
        return value
    return steps.add("shift", [value], filled.numel(), by=filled.numpy().ravel())


@rule("conv")
def _conv(steps: Steps, site: Site, x: list[int]) -> int:
    args, weight = site.args, numbers_of(site, "weight")
    left, right, extend, mode = (args["padding"][k] for k in ("left", "right", "extend", "mode"))
    places = padded(grid_of(site.shapes[0]), "zeros", [0] * len(extend), extend)
    places = padded(places, mode, left, right)
    value = steps.gather(x[0], places)
    return _matrix(steps, site, value, weight, places.shape[1:], site.shape[1:], args)


def _matrix(
    steps: Steps, site: Site, value: int, weight: np.ndarray, wide: Any, out: Any, args: Any,
    transposed: bool = False,
) -> int:  # fmt: skip
    """A convolution without padding, or its adjoint, and the bias."""
    groups, taps = args["groups"], weight.shape[2:]
    channels = weight.shape[1] * groups
    size = channels * math.prod(wide) if transposed else len(weight) * math.prod(out)
    value = steps.add(
        "matrix", [value], size, weight=weight, groups=groups, taps=list(taps), wide=list(wide),
        out=list(out), stride=list(args["stride"]), dilation=list(args["dilation"]),
        transposed=transposed,
    )  # fmt: skip
    if transposed:
        pad, shape = args["padding"], (channels, *wide)
        inside = (slice(None), *(slice(p, p + n) for p, n in zip(pad, site.shape[1:], strict=True)))
        value = steps.gather(value, grid_of(shape)[inside])
    return _biased(steps, site, value)


def _biased(steps: Steps, site: Site, value: int) -> int:
    if "bias" not in site.tensors:
        return value
    bias = np.broadcast_to(by_channel(numbers_of(site, "bias"), site), site.shape)
    return steps.add("shift", [value], bias.size, by=bias.ravel())


@rule("conv_transpose")
def _conv_transpose(steps: Steps, site: Site, x: list[int]) -> int:
    """The adjoint of a convolution on the padded output, cut to size."""
    args, weight = site.args, numbers_of(site, "weight")
    before, after = args["wrap"] or [[0] * (weight.ndim - 2)] * 2
    places = padded(grid_of(site.shapes[0]), "circular", before, after)
    value = steps.gather(x[0], places)
    wide = [n + 2 * p for n, p in zip(site.shape[1:], args["padding"], strict=True)]
    return _matrix(steps, site, value, weight, wide, places.shape[1:], args, transposed=True)


@rule("linear")
def _linear(steps: Steps, site: Site, x: list[int]) -> int:
    weight, rows = numbers_of(site, "weight"), math.prod(site.shape[:-1])
    columns = grid_of(site.shapes[0]).reshape(rows, -1).T  # features before places, as in an image
    plain = {"groups": 1, "stride": [1], "dilation": [1]}
    value = steps.add(
        "matrix", [steps.gather(x[0], columns)], rows * len(weight), weight=weight, taps=[1],
        wide=[rows], out=[rows], transposed=False, **plain,
    )  # fmt: skip
    value = steps.gather(value, grid_of((len(weight), rows)).T)
    if "bias" not in site.tensors:
        return value
    bias = np.broadcast_to(numbers_of(site, "bias"), site.shape)
    return steps.add("shift", [value], bias.size, by=bias.ravel())


@rule("skew_exponential")
def _skew_exponential(steps: Steps, site: Site, x: list[int]) -> int:
    """X + J x + J^2 x / 2 + ... by Horner's rule: y <- x + J y / j, from the last term on."""
    args, weight = site.args, numbers_of(site, "weight")
    sides = [d * (k // 2) for d, k in zip(args["dilation"], weight.shape[2:], strict=True)]
    places = padded(grid_of(site.shape), args["mode"], sides, sides)
    plain = {"groups": args["groups"], "dilation": args["dilation"], "stride": [1 for _ in sides]}
    bare = Site(site.node, site.shapes, {})
    value, size = x[0], math.prod(site.shape)
    for j in range(args["degree"], 0, -1):
        wide = steps.gather(value, places)
        step = _matrix(steps, bare, wide, weight, places.shape[1:], site.shape[1:], plain)
        step = steps.add("divide", [step], size, by=np.array([float(j)]))
        value = steps.add("add", [x[0], step], size, factors=[1.0, 1.0])
    return _biased(steps, site, value)
