r"""Layers :math:`x - C^* q f(p C x + b)` and :math:`A^* q f(p B x + b)` become one operation.

Their proofs, in docs/proofs.md, are of a whole layer; the rules of its steps multiply.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from taut.program._program import Node, Program
from taut.program.passes._rewriting import rebuilt

__all__ = ["recognise_residuals", "slope_fault"]


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


_ANY = ("identity", "relu", "relu6", "tanh", "sigmoid", "softsign", "atan")
_SLOPES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    **dict.fromkeys(_ANY, lambda _: True),
    "leaky_relu": lambda args: _is_share(args["negative_slope"]),
    "elu": lambda args: _is_share(args["alpha"]),
    "hardtanh": lambda args: args["min_val"] <= args["max_val"],
    # At the threshold t torch jumps down from log(1 + exp t) to t: a rounding from 34 on.
    "softplus": lambda args: args["beta"] > 0 and 34 <= args["threshold"] <= 88,
}
"""Functions of each entry, and with which arguments their slopes lie in [0, 1]."""


def slope_fault(op: str, args: Mapping[str, Any]) -> str:
    """What is not known to have slopes in [0, 1]; "" if the function of an operation has.

    Example:
        >>> slope_fault("relu", {}), slope_fault("leaky_relu", {"negative_slope": 2.0})
        ('', "leaky_relu with {'negative_slope': 2.0}")
    """
    if op not in _SLOPES:
        return op
    return "" if _SLOPES[op](args) else f"{op} with {dict(args)}"


@final
@dataclass(frozen=True)
class _Steps:
    """The steps of a layer, the size of the image, the names of tensors between convolutions."""

    size: tuple[int, ...]
    inner: Node
    outer: Node
    activation: dict[str, Any]
    factor: float
    held: dict[str, str]


def recognise_residuals(program: Program) -> Program:
    r"""Steps that together are a potential residual or a sandwich layer are that layer.

    *Potential residual*: a convolution, factors p of its channels, a bias, a function with slopes
    in [0, 1], factors q, the adjoint of that very convolution, and the difference of the value that
    the convolution read and all that. p may be missing, and q may be one number.

    *Sandwich*: the same without the difference, and with a kernel of its own for the adjoint.

    The steps are only gathered: the program computes what it did.
    """
    made = {node.name: node for node in program.nodes}
    nodes = []
    for node in program.nodes:
        known = _residual(node, made, program) or _sandwich(node, made, program)
        nodes.append(node if known is None else known)
    return _named(rebuilt(program, nodes))


def _named(program: Program) -> Program:
    """Layers under their own names, which one of their steps had; one that runs twice once."""
    taken, names = {node.name for node in program.nodes}, {}
    for node in program.nodes:
        ours = node.op in ("potential_residual", "sandwich")
        if ours and node.path not in taken and re.fullmatch(r"_\d+", node.name[len(node.path) :]):
            names[node.name] = node.path
            taken.add(node.path)
    nodes = (
        replace(
            node,
            name=names.get(node.name, node.name),
            inputs=tuple(names.get(name, name) for name in node.inputs),
        )
        for node in program.nodes
    )
    output = names.get(program.output, program.output)
    return replace(program, nodes=tuple(nodes), output=output)


def _residual(node: Node, made: Mapping[str, Node], program: Program) -> Node | None:
    if node.op != "add" or node.tensors or node.args["factors"] != [1.0, -1.0]:
        return None
    if {program.shapes[name] for name in node.inputs} != {node.shape}:  # broadcasting copies
        return None
    steps = _steps(node.inputs[1], made, program)
    if steps is None or steps.inner.inputs[0] != node.inputs[0]:
        return None
    one, other = (step.tensors["weight"] for step in (steps.inner, steps.outer))
    same = one == other or torch.equal(program.tensors[one], program.tensors[other])
    if not same or not _are_adjoint(steps):
        return None
    return _as(node, "potential_residual", steps, {"weight": one})


def _sandwich(node: Node, made: Mapping[str, Node], program: Program) -> Node | None:
    steps = _steps(node.name, made, program) if node.op in ("conv_transpose", "slice") else None
    if steps is None or not {"before", "after"} <= steps.held.keys() or not _are_paired(steps):
        return None
    weights = {"inner": steps.inner.tensors["weight"], "outer": steps.outer.tensors["weight"]}
    return _as(node, "sandwich", steps, weights)


def _as(node: Node, op: str, steps: _Steps, weights: dict[str, str]) -> Node:
    kind = op if node.type in ("", node.op) or not node.path else node.type
    args = {
        "inner": dict(steps.inner.args), "outer": dict(steps.outer.args),
        "activation": steps.activation, "factor": steps.factor,
    }  # fmt: skip
    tensors = weights | steps.held
    return replace(node, op=op, inputs=steps.inner.inputs, args=args, tensors=tensors, type=kind)


def _steps(name: str, made: Mapping[str, Node], program: Program) -> _Steps | None:
    """A convolution, functions of each entry, and a transposed convolution, cut off or not."""
    at = made.get(name)
    while at is not None and _cuts_off(at):
        at = made.get(at.inputs[0])
    if at is None or at.op != "conv_transpose" or "bias" in at.tensors:
        return None
    outer, at = at, made.get(at.inputs[0])
    held, factor, activation = {}, 1.0, {"op": "identity", "args": {}}
    if at is not None and at.op == "scale":
        held |= {"after": at.tensors["factor"]} if at.tensors else {}
        factor, at = at.args.get("factor", 1.0), made.get(at.inputs[0])
    if (
        at is not None
        and len(at.inputs) == 1
        and not at.tensors
        and not slope_fault(at.op, at.args)
    ):
        activation, at = {"op": at.op, "args": dict(at.args)}, made.get(at.inputs[0])
    if at is not None and at.op == "add" and at.tensors and _adds(at):
        held["bias"], at = at.tensors["constant"], made.get(at.inputs[0])
    if at is not None and at.op == "scale" and at.tensors:
        held["before"], at = at.tensors["factor"], made.get(at.inputs[0])
    if at is None or at.op != "conv" or not _fit(held, at, outer, program) or not factor > 0:
        return None
    if "bias" in at.tensors:
        if held.keys() & {"bias", "before"}:
            return None
        held["bias"] = at.tensors["bias"]
    size = program.shapes[at.inputs[0]][1:]
    return _Steps(size, at, outer, activation, factor, held)


def _cuts_off(node: Node) -> bool:
    args = node.args
    return node.op == "slice" and args["axis"] > 0 and args["start"] == 0 and args["step"] == 1


def _adds(node: Node) -> bool:
    return node.args == {"factors": [1.0], "constant": 1.0} and len(node.inputs) == 1


def _fit(held: Mapping[str, str], inner: Node, outer: Node, program: Program) -> bool:
    """Whether there is one number for each channel, and factors are above 0."""
    hidden = inner.shape
    column = (hidden[0], *[1] * (len(hidden) - 1))
    tensors = {role: program.tensors[name] for role, name in held.items()}
    columns = all(tuple(tensor.shape) == column for tensor in tensors.values())
    positive = all(bool((t > 0).all()) for role, t in tensors.items() if role != "bias")
    return columns and positive and program.shapes[outer.inputs[0]] == hidden


def _are_adjoint(steps: _Steps) -> bool:
    """Whether the outer step is the adjoint of the inner one, on an image of that size.

    Tap t of window j reads and adds to position s j + d t - left of the image, modulo the periodic
    domain where padding is circular; zeros lie outside of the image. It does not matter how far
    either step reaches behind the image.
    """
    inner, outer = steps.inner.args, steps.outer.args
    if any(inner[key] != outer[key] for key in ("stride", "dilation", "groups")):
        return False
    if any(n < m for n, m in zip(steps.outer.shape[1:], steps.size, strict=True)):
        return False
    left = inner["padding"]["left"]
    if outer["wrap"] is None:
        return inner["padding"]["mode"] == "zeros" and outer["padding"] == left
    domain = _domain(inner, steps.size)
    same = zip(left, outer["left"], domain, strict=True)
    return (
        inner["padding"]["mode"] == "circular"
        and domain == [s * m for s, m in zip(inner["stride"], steps.inner.shape[1:], strict=True)]
        and domain == list(steps.outer.shape[1:])
        and all((a - b) % n == 0 for a, b, n in same)
    )


def _domain(args: Mapping[str, Any], size: tuple[int, ...]) -> list[int]:
    """The size of the image with the zeros that extend it."""
    return [n + e for n, e in zip(size, args["padding"]["extend"], strict=True)]


def _are_paired(steps: _Steps) -> bool:
    """Whether both steps are convolutions of stride 1 between one coarse grid and hidden channels.

    A stride is one of them, on channels that hold all positions of a step of the stride.
    """
    inner, outer, windows = steps.inner.args, steps.outer.args, steps.inner.shape[1:]
    if inner["groups"] != outer["groups"] or inner["dilation"] != outer["dilation"]:
        return False
    axes = zip(inner["stride"], outer["stride"], inner["dilation"], strict=True)
    if any(d != 1 and (s, u) != (1, 1) for s, u, d in axes):
        return False
    if outer["wrap"] is None:
        return inner["padding"]["mode"] == "zeros"
    domains = zip(
        (inner, outer), (_domain(inner, steps.size), list(steps.outer.shape[1:])), strict=True
    )
    return inner["padding"]["mode"] == "circular" and all(
        domain == [s * m for s, m in zip(args["stride"], windows, strict=True)]
        for args, domain in domains
    )
