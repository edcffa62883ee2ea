"""Functions of entries, sorting, sums and factors as steps."""

import math
from typing import Any

import numpy as np

from taut.playground._rules import by_channel, grid_of, numbers_of, padded, rule, spread
from taut.playground._steps import Steps
from taut.program import Site


@rule("MaxMin")
def _maxmin(steps: Steps, site: Site, x: list[int]) -> int:
    """Channel i of the first half against channel i of the second one."""
    grid, half = grid_of(site.shape), site.shape[0] // 2
    pairs = np.stack([grid[:half].ravel(), grid[half : 2 * half].ravel()], 1)
    return _sorted(steps, x[0], grid, pairs, descending=True)


@rule("GroupSort")
def _group_sort(steps: Steps, site: Site, x: list[int]) -> int:
    grid, n = grid_of(site.shape), site.args["group_size"]
    groups = grid[: len(grid) // n * n].reshape(len(grid) // n, n, -1)
    return _sorted(steps, x[0], grid, groups.swapaxes(1, 2).reshape(-1, n), descending=False)


@rule("sort")
def _sort(steps: Steps, site: Site, x: list[int]) -> int:
    grid, axis = grid_of(site.shape), site.args["axis"]
    groups = np.moveaxis(grid, axis, -1).reshape(-1, site.shape[axis])
    return _sorted(steps, x[0], grid, groups, descending=site.args["descending"])


def _sorted(
    steps: Steps, value: int, grid: np.ndarray, groups: np.ndarray, *, descending: bool
) -> int:
    """Sort the entries at each row of places; all others stay."""
    rest = np.setdiff1d(grid.ravel(), groups.ravel())
    order = np.concatenate([groups.ravel(), rest])
    value = steps.gather(value, order)
    value = steps.add(
        "sort", [value], grid.size, group=groups.shape[1], groups=len(groups), descending=descending
    )
    return steps.gather(value, np.argsort(order))


@rule("abs")
def _abs(steps: Steps, site: Site, x: list[int]) -> int:
    return steps.add("rectify", x, math.prod(site.shape), slope=np.array([-1.0]))


@rule("relu", "leaky_relu", "prelu")
def _rectify(steps: Steps, site: Site, x: list[int]) -> int:
    slope: Any = site.args.get("negative_slope", 0.0)
    if "weight" in site.tensors:
        slope = by_channel(numbers_of(site, "weight"), site)
    return steps.add("rectify", x, math.prod(site.shape), slope=spread(slope, site))


@rule("clamp", "hardtanh", "relu6")
def _clamp(steps: Steps, site: Site, x: list[int]) -> int:
    ends = {"min": -np.inf, "max": np.inf, "min_val": 0.0, "max_val": 6.0} | dict(site.args)
    ends |= {role: numbers_of(site, role) for role in site.tensors}
    names = ("min", "max") if site.node.op == "clamp" else ("min_val", "max_val")
    low, high = (ends[name] for name in names)
    low, high = (-np.inf if low is None else low), (np.inf if high is None else high)
    return _clamped(steps, site, x, low, high)


def _clamped(steps: Steps, site: Site, x: list[int], low: Any, high: Any) -> int:
    ends = {"low": spread(low, site), "high": spread(high, site)}
    return steps.add("clamp", x, math.prod(site.shape), **ends)


@rule("NActivation")
def _nactivation(steps: Steps, site: Site, x: list[int]) -> int:
    """X - 2 min(max(x, low), high)."""
    ends = (by_channel(numbers_of(site, role), site) for role in ("low", "high"))
    middle = _clamped(steps, site, x, *ends)
    return steps.add("add", [x[0], middle], math.prod(site.shape), factors=[1.0, -2.0])


@rule("add")
def _add(steps: Steps, site: Site, x: list[int]) -> int:
    size, factors = math.prod(site.shape), list(site.args["factors"])
    moved = [
        steps.gather(value, np.broadcast_to(grid_of(shape), site.shape))
        for value, shape in zip(x, site.shapes, strict=True)
    ]
    value = moved[0]
    if len(moved) == 2 or factors != [1.0]:
        value = steps.add("add", moved, size, factors=factors)
    constant = site.args["constant"]
    held = numbers_of(site, "constant") if "constant" in site.tensors else 1.0
    if constant == 0 or len(moved) == 2:
        return value
    return steps.add("shift", [value], size, by=spread(float(constant) * np.float64(held), site))


@rule("neg")
def _neg(steps: Steps, site: Site, x: list[int]) -> int:
    return steps.add("scale", x, math.prod(site.shape), by=np.array([-1.0]))


@rule("scale", "divide")
def _scale(steps: Steps, site: Site, x: list[int]) -> int:
    role = "factor" if site.node.op == "scale" else "divisor"
    by = numbers_of(site, role) if role in site.tensors else site.args[role]
    value = steps.gather(x[0], np.broadcast_to(grid_of(site.shapes[0]), site.shape))
    op = "scale" if role == "factor" else "divide"
    return steps.add(op, [value], math.prod(site.shape), by=spread(by, site))


@rule("batch_norm")
def _batch_norm(steps: Steps, site: Site, x: list[int]) -> int:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    held = {role: numbers_of(site, role).astype(np.float64) for role in site.tensors}
    n = site.shape[0]
    mean, variance = held.get("running_mean", np.zeros(n)), held.get("running_var", np.ones(n))
    deviation = np.sqrt(variance + float(site.args["eps"]))
    weight, bias = held.get("weight"), held.get("bias")
    value = x[0]
    for op, by in (("shift", -mean), ("divide", deviation), ("scale", weight), ("shift", bias)):
        if by is not None:
            by = spread(by_channel(by, site), site)
            value = steps.add(op, [value], math.prod(site.shape), by=by)
    return value


@rule("IsometricPad1d", "IsometricPad2d", "IsometricPad3d")
def _isometric_pad(steps: Steps, site: Site, x: list[int]) -> int:
    """Entries over the root of how often they are copied."""
    sides, grid = site.args["padding"], grid_of(site.shapes[0])
    left, right = list(sides[::2][::-1]), list(sides[1::2][::-1])
    places = padded(grid, site.args["mode"], left, right)
    roots = np.sqrt(np.bincount(places.ravel(), minlength=grid.size))
    return steps.gather(steps.add("divide", x, grid.size, by=roots), places)


@rule("concat")
def _concat(steps: Steps, site: Site, x: list[int]) -> int:
    parts, axis = site.args["parts"], site.args["axis"]
    shapes = list(site.shapes)
    if site.tensors:  # constants stand behind the values, shifted there from 0
        raise ValueError(f"`{site.node.name}` joins a value and a constant, which the page cannot.")
    ends = np.cumsum([0, *map(math.prod, shapes)])
    grids = [grid_of(shape) + ends[i] for i, shape in enumerate(shapes)]
    joined = steps.add("concat", x, int(ends[-1]))
    return steps.gather(joined, np.concatenate([grids[part] for part in parts], axis))
