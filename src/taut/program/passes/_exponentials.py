"""Truncated exponentials of skew convolutions, written out step by step, become one operation."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from taut.linalg.convolution import ConvOperator
from taut.linalg.series import RADII, skew_fault
from taut.program._program import Node, Program
from taut.program.ops._image_padding import padding_of
from taut.program.passes._rewriting import rebuilt

__all__ = ["recognise_exponentials"]


def recognise_exponentials(program: Program) -> Program:
    r"""A chain of steps :math:`y_{j-1} = x + J y_j / j` from :math:`y_m = x` is S(J) x.

    Multiplied out, :math:`y_0 = \sum_{j \le m} J^j x / j!`. The plain rules add what each step may
    stretch, :math:`\sum_j \|J\|^j / j!`; of a convolution J with :math:`J^\top = -J`, bit for bit,
    the norm is that of a function of its eigenvalues (`SeriesOperator`). The last convolution may
    have a bias. A factor 1/j may be rounded to the precision of the kernel, as files have it; it is
    a rounding of the step.
    """
    made = {node.name: node for node in program.nodes}
    nodes = []
    for node in program.nodes:
        for x in node.inputs if node.op == "add" else ():
            steps = _steps(node, x, made, program)
            if len(steps) in RADII and _is_skew(steps[0], program):
                node = _exponential(node, x, steps)
                break
        nodes.append(node)
    return rebuilt(program, nodes)


def _exponential(node: Node, x: str, steps: list[Node]) -> Node:
    first = steps[0]
    args: dict[str, Any] = {"degree": len(steps), "mode": first.args["padding"]["mode"]}
    args |= {key: first.args[key] for key in ("dilation", "groups")}
    kind = "skew_exponential"
    name = kind if node.type in ("", node.op) or not node.path else node.type
    tensors = dict(sorted(first.tensors.items()))
    return replace(node, op=kind, inputs=(x,), args=args, tensors=tensors, type=name)


def _steps(node: Node | None, x: str, made: dict[str, Node], program: Program) -> list[Node]:
    """The convolutions of all steps, the one with the bias first; empty if there is no chain."""
    steps: list[Node] = []
    while node is not None:
        step = _step(node, x, len(steps) + 1, made, program)
        first = steps[0] if steps else step
        if step is None or first is None or step.args != first.args:
            return []
        same = step.tensors["weight"] == first.tensors["weight"]
        if not same or (steps and "bias" in step.tensors):
            return []
        steps.append(step)
        if step.inputs[0] == x:
            return steps
        node = made.get(step.inputs[0])
    return []


def _step(node: Node, x: str, j: int, made: dict[str, Node], program: Program) -> Node | None:
    """The convolution of x + J y / j, if a node is that."""
    if node.op != "add" or len(node.inputs) != 2 or node.tensors:
        return None
    pairs = list(zip(node.inputs, node.args["factors"], strict=True))
    (own, other) = pairs if pairs[0][0] == x else pairs[::-1]
    convolution, factor = made.get(other[0]), other[1]
    if own != (x, 1.0) or convolution is None:
        return None
    if convolution.op == "scale" and not convolution.tensors and factor == 1.0:
        factor, convolution = convolution.args["factor"], made.get(convolution.inputs[0])
    if convolution is None or convolution.op != "conv":
        return None
    single = program.tensors[convolution.tensors["weight"]].dtype == torch.float32
    known = factor == 1 / j or (single and factor == float(np.float32(1 / j)))
    return convolution if known else None


def _is_skew(step: Node, program: Program) -> bool:
    """Whether a convolution is minus its adjoint, bit for bit."""
    args, shape = step.args, step.shape
    if program.shapes[step.inputs[0]] != shape or any(s != 1 for s in args["stride"]):
        return False
    weight, padding = program.tensors[step.tensors["weight"]], padding_of(args["padding"])
    steps = (tuple(args["stride"]), tuple(args["dilation"]), args["groups"])
    return skew_fault(ConvOperator(weight, shape[1:], *steps, padding)) is None
