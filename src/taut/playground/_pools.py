"""Sums and pools as steps."""

import math
from typing import Any

import numpy as np

from taut.playground._rules import grid_of, numbers_of, padded, rule, spread
from taut.playground._steps import Steps
from taut.program import Site


@rule("sum", "mean")
def _sum(steps: Steps, site: Site, x: list[int]) -> int:
    axes = tuple(site.args["axes"])
    grid = np.moveaxis(grid_of(site.shapes[0]), axes, range(-len(axes), 0))
    windows = grid.reshape(math.prod(site.shape), -1)
    return _reduced(steps, x, windows, windows.shape[1] if site.node.op == "mean" else 1)


@rule("centre")
def _centre(steps: Steps, site: Site, x: list[int]) -> int:
    """A value less its mean over axes."""
    axes, grid = tuple(site.args["axes"]), grid_of(site.shape)
    first = grid.min(axes, keepdims=True)
    groups = np.moveaxis(grid, axes, range(-len(axes), 0)).reshape(first.size, -1)
    mean = _reduced(steps, x, groups, groups.shape[1])
    copies = np.broadcast_to(grid_of(first.shape), site.shape)
    return steps.add("add", [x[0], steps.gather(mean, copies)], grid.size, factors=[1.0, -1.0])


def _reduced(
    steps: Steps, x: list[int], windows: np.ndarray, divisor: Any, kind: str = "sum"
) -> int:
    value = steps.add("reduce", x, len(windows), places=windows.astype(np.int32).ravel(), kind=kind)
    by = np.asarray(divisor, np.float64).reshape(-1)
    return value if (by == 1).all() else steps.add("divide", [value], len(windows), by=by)


def _windows(site: Site) -> np.ndarray:
    """What each window of a pool reads, a row each; -1 for padding."""
    args, grid = site.args, grid_of(site.shapes[0])
    axes = range(len(args["kernel_size"]))
    steps, padding = args["stride"], args["padding"]
    dilation = args.get("dilation", [1 for _ in axes])
    grid = padded(grid, "zeros", padding, [p + s for p, s in zip(padding, steps, strict=True)])
    index = [
        np.add.outer(np.arange(n) * s, np.arange(k) * d)
        for n, k, s, d in zip(site.shape[1:], args["kernel_size"], steps, dilation, strict=True)
    ]
    for axis in axes:  # (c, ..., n, k, ...): windows of one axis after the other
        grid = np.take(grid, index[axis], 1 + 2 * axis)
    return _rows(grid)


def _rows(grid: np.ndarray) -> np.ndarray:
    """(c, n, k, ...): a row for each window."""
    axes = range(1, grid.ndim, 2)
    windows = grid.transpose([0, *axes, *(axis + 1 for axis in axes)])
    return windows.reshape(math.prod(windows.shape[: len(axes) + 1]), -1)


@rule("avg_pool")
def _avg_pool(steps: Steps, site: Site, x: list[int]) -> int:
    return _reduced(steps, x, _windows(site), site.args["divisor"])


@rule("max_pool")
def _max_pool(steps: Steps, site: Site, x: list[int]) -> int:
    return _reduced(steps, x, _windows(site), 1, "max")


@rule("l2_pool")
def _l2_pool(steps: Steps, site: Site, x: list[int]) -> int:
    """The root of factor times the mean of squares, and a constant."""
    if site.args["pool"] != "avg_pool":
        raise ValueError(
            f"`{site.node.name}` is an adaptive l2-norm pool, which the playground's page does not "
            "run; a pool with a kernel size is one that it runs."
        )
    value = _reduced(steps, x, _windows(site), site.args["divisor"], "squares")
    size, factor = math.prod(site.shape), site.args["factor"]
    held = numbers_of(site, "factor") if "factor" in site.tensors else factor
    value = steps.add("scale", [value], size, by=spread(held, site))
    value = steps.add("shift", [value], size, by=spread(site.args["constant"], site))
    return steps.add("root", [value], size)


@rule("average")
def _average(steps: Steps, site: Site, x: list[int]) -> int:
    """Adaptive means: window i of m is from i n / m to (i + 1) n / m, rounded outwards."""
    grid = grid_of(site.shapes[0])
    for axis, (n, m) in enumerate(zip(site.shapes[0][1:], site.shape[1:], strict=True)):
        ends = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        most = max(b - a for a, b in ends)
        index = np.array([[*range(a, b), *[n] * (most - b + a)] for a, b in ends])
        grid = np.pad(grid, [(0, int(i == 1 + 2 * axis)) for i in range(grid.ndim)],
                      constant_values=-1)  # fmt: skip
        grid = np.take(grid, index, 1 + 2 * axis)
    windows = _rows(grid)
    return _reduced(steps, x, windows, (windows >= 0).sum(1))
