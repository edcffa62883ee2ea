"""Pools of signals that were written as pools of images with one row."""

import math
from dataclasses import replace
from typing import Any

from taut.program._program import Node, Program
from taut.program.passes._rewriting import rebuilt

__all__ = ["drop_unit_axes"]

_POOLS = ("avg_pool", "max_pool")


def drop_unit_axes(program: Program) -> Program:
    """An axis of length 1 that a pool leaves alone may be left out.

    A pool treats axes one by one, and along such an axis each window is the one entry that it
    starts at: a new axis, the pool, and the axis gone again are the pool of one axis less.
    Compilers pool signals so; and no convolution is composed with a pool across a change of shape.
    """
    made, shapes, nodes = {node.name: node for node in program.nodes}, program.shapes, []
    for node in program.nodes:
        pool = made.get(node.inputs[0]) if node.op == "reshape" else None
        before = made.get(pool.inputs[0]) if pool is not None and pool.op in _POOLS else None
        if pool is not None and before is not None and before.op == "reshape":
            axis = _unit_axis(pool, shapes[before.inputs[0]], before.shape, node.shape)
            if axis is not None:
                args = {k: _without(v, axis) for k, v in pool.args.items()}
                node = replace(node, op=pool.op, inputs=before.inputs, args=args)
        nodes.append(node)
    return rebuilt(program, nodes)


def _unit_axis(
    pool: Node, read: tuple[int, ...], wide: tuple[int, ...], written: tuple[int, ...]
) -> int | None:
    """The spatial axis that only the pool has, if there is one."""
    for axis in range(len(wide) - 1):
        place = axis + 1
        alone = wide[place] == 1 and pool.shape[place] == 1
        alone = alone and (read, written) == (_without(wide, place), _without(pool.shape, place))
        plain = (pool.args["kernel_size"][axis], pool.args["padding"][axis]) == (1, 0)
        if alone and plain and len(read) > 1 and not pool.args.get("whole") and not _divides(pool):
            return axis
    return None


def _divides(pool: Node) -> bool:
    """Whether an average has a divisor of its own, which pools of one axis cannot have."""
    size = math.prod(pool.args["kernel_size"])
    return pool.args.get("divisor", size) != size


def _without(values: Any, place: int) -> Any:
    """A list without one of its entries."""
    if not isinstance(values, list | tuple):
        return values
    return type(values)([*values[:place], *values[place + 1 :]])
