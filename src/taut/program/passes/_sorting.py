"""Sorting layers written out by hand, in files or in models, become one operation."""

from dataclasses import replace
from typing import Any

from taut.program._program import Node, Program, Shape
from taut.program.passes._rewriting import rebuilt

__all__ = ["recognise_sorting"]


def recognise_sorting(program: Program) -> Program:
    r"""Channels of one value that are sorted in groups, side by side with the rest of them.

    Let a and b be halves of the channels of a value, and let the rest of them, if any, be passed
    on: then (max(a, b), min(a, b), rest) has the same entries as the value, in an order that
    depends on them, and so has (sorted groups, rest). The map is continuous and on each piece a
    permutation, hence 1-Lipschitz; the plain rules take the parts for independent and give
    :math:`\sqrt 2`.
    """
    made, shapes = {node.name: node for node in program.nodes}, program.shapes
    nodes = []
    for node in program.nodes:
        known = _maxmin(node, made, shapes) or _group_sort(node, made, shapes)
        nodes.append(node if known is None else _as(node, *known))
    return rebuilt(program, nodes)


def _as(node: Node, op: str, x: str, args: dict[str, Any]) -> Node:
    kind = op if node.type in ("", node.op) or not node.path else node.type
    return replace(node, op=op, inputs=(x,), args=args, type=kind)


Sorting = tuple[str, str, dict[str, Any]]


def _maxmin(node: Node, made: dict[str, Node], shapes: dict[str, Shape]) -> Sorting | None:
    """The MaxMin that a concatenation is, if it is one."""
    parts = _parts(node, made)
    if len(parts) not in (2, 3) or (parts[0].op, parts[1].op) != ("maximum", "minimum"):
        return None
    if set(parts[0].inputs) != set(parts[1].inputs) or parts[0].tensors or parts[1].tensors:
        return None
    halves = sorted(_channels(name, made, shapes) for name in set(parts[0].inputs))
    if len(halves) != 2 or halves[0][0] != halves[1][0]:
        return None
    x, (start, half), (middle, whole) = halves[0][0], halves[0][1:], halves[1][1:]
    total = shapes[x][0]
    rest = _channels(parts[2].name, made, shapes)[1:] if len(parts) == 3 else (whole, whole)
    exact = (start, middle, whole) == (0, half, 2 * half) and rest == (whole, total)
    if len(parts) == 3 and _channels(parts[2].name, made, shapes)[0] != x:
        return None
    return ("MaxMin", x, {}) if exact and total - whole <= 1 else None


def _group_sort(node: Node, made: dict[str, Node], shapes: dict[str, Shape]) -> Sorting | None:
    """The GroupSort that a concatenation is, or a reshaped sort of all channels."""
    parts = _parts(node, made) or [node]
    if len(parts) > 2 or parts[0].op != "reshape":
        return None
    sort = made.get(parts[0].inputs[0])
    split = None if sort is None else made.get(_sorted(sort, made))
    if split is None or split.op != "reshape" or len(split.shape) < 2:
        return None
    base = split.inputs[0]
    groups, size, shape = split.shape[0], split.shape[1], shapes[base]
    if len(shape) == 0 or groups * size != shape[0] or parts[0].shape != shape:
        return None
    if len(parts) == 1:
        return "GroupSort", base, {"group_size": size}
    x, *head = _channels(base, made, shapes)
    other, *rest = _channels(parts[1].name, made, shapes)
    total = shapes[x][0]
    if other != x or (*head, *rest) != (0, shape[0], shape[0], total) or total - shape[0] >= size:
        return None
    return "GroupSort", x, {"group_size": size}


def _sorted(node: Node, made: dict[str, Node]) -> str:
    """What a value is with its axis 1 in ascending order; "" if it is no such thing.

    Of two entries these are the minimum and the maximum, side by side.
    """
    if node.op == "sort":
        return node.inputs[0] if node.args == {"axis": 1, "descending": False} else ""
    if node.op != "concat" or node.tensors or node.args != {"axis": 1, "parts": [0, 1]}:
        return ""
    low, high = (made.get(name) for name in node.inputs)
    if low is None or high is None or (low.op, high.op) != ("amin", "amax"):
        return ""
    along = low.args == high.args == {"axes": [1], "keepdim": True}
    split = made.get(low.inputs[0])
    pairs = low.inputs == high.inputs and split is not None and split.shape[1] == 2
    return low.inputs[0] if along and pairs else ""


def _parts(node: Node, made: dict[str, Node]) -> list[Node]:
    """What a concatenation of channels puts side by side, in its order; empty if it is none."""
    if node.op != "concat" or node.tensors or node.args["axis"] != 0:
        return []
    parts = [made.get(node.inputs[part]) for part in node.args["parts"]]
    return [part for part in parts if part is not None] if None not in parts else []


def _channels(name: str, made: dict[str, Node], shapes: dict[str, Shape]) -> tuple[str, int, int]:
    """Which channels of which value a value is: all of its own, if it is no slice."""
    node = made.get(name)
    if node is None or node.op != "slice" or node.args["axis"] != 0 or node.args["step"] != 1:
        return name, 0, shapes[name][0]
    return node.inputs[0], node.args["start"], node.args["stop"]
