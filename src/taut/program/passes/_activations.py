"""Activations of taut that are written out, in files, become one operation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from taut.program._program import Node, Program, Shape
from taut.program.passes._rewriting import rebuilt

__all__ = ["recognise_activations"]


def recognise_activations(program: Program) -> Program:
    r"""Steps that together are a fold, an N-activation or a linear spline are that operation.

    Each pattern is an identity of functions:

    - :math:`x - \min(v \cdot x, 0)\, 2 v` on groups of channels is `HouseHolder`;
    - :math:`x - 2 \min(\max(x, l), h)` is `NActivation`;
    - with :math:`y = \min(\max(x, -R), R)`, R = m h, the sum of
      :math:`s_k \min(\max(y - t_k, l_k), u_k)` over 2 m pieces of width h, of which :math:`t_k` is
      the end near 0, and of :math:`s_1 \min(x - y, 0) + s_{2m} \max(x - y, 0)` is `LinearSpline`.
      Knots must be exact: then pieces neither overlap nor leave gaps.
    """
    shapes, tensors = program.shapes, dict(program.tensors)
    made: dict[str, Node] = {}
    for node in program.nodes:
        made[node.name] = node
        for op, pattern, read in _PATTERNS:
            found = _Found(made, program.tensors)
            if node.op != pattern.op or not found.fits(pattern, node.name):
                continue
            result = read(found, shapes[found.names["x"]])
            if result is None or shapes[found.names["x"]] != node.shape:
                continue
            args, held = result
            names = {role: f"{node.name}.{role}" for role in held}
            tensors |= {names[role]: tensor for role, tensor in held.items()}
            kind = op if node.type in ("", node.op) or not node.path else node.type
            made[node.name] = replace(
                node, op=op, inputs=(found.names["x"],), args=args, tensors=names, type=kind
            )
            break
    return rebuilt(replace(program, tensors=tensors), made.values())


@final
@dataclass(frozen=True)
class _Step:
    """An operation, its inputs (steps, or a letter for a value), and its arguments.

    With a `label` the tensor, or else the arguments, are kept under it, and the latter are free.
    """

    op: str
    inputs: tuple["_Step | str", ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@final
class _Found:
    """What the letters and labels of a pattern stand for."""

    def __init__(self, made: Mapping[str, Node], tensors: Mapping[str, Tensor]) -> None:
        self.made, self.held = made, tensors
        self.names: dict[str, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.args: dict[str, Mapping[str, Any]] = {}

    def fits(self, pattern: _Step | str, name: str) -> bool:
        """Whether a value is a pattern."""
        if isinstance(pattern, str):
            return self.names.setdefault(pattern, name) == name
        node = self.made.get(name)
        if node is None or node.op != pattern.op or len(node.inputs) != len(pattern.inputs):
            return False
        if not (self._keeps(pattern, node) if pattern.label else self._same(pattern, node)):
            return False
        return all(map(self.fits, pattern.inputs, node.inputs))

    def _same(self, pattern: _Step, node: Node) -> bool:
        return not node.tensors and dict(node.args) == dict(pattern.args)

    def _keeps(self, pattern: _Step, node: Node) -> bool:
        if not node.tensors:
            return self.args.setdefault(pattern.label, node.args) == node.args
        if len(node.tensors) > 1 or dict(node.args) != dict(pattern.args):
            return False
        self.tensors[pattern.label] = self.held[next(iter(node.tensors.values()))]
        return True


_DIFFERENCE = {"factors": [1.0, -1.0], "constant": 0.0}
_SUM = {"factors": [1.0, 1.0], "constant": 0.0}
_BELOW, _ABOVE = {"min": None, "max": 0.0}, {"min": 0.0, "max": None}

Known = tuple[dict[str, Any], dict[str, Tensor]] | None
"""Arguments and tensors of the operation that a pattern is, if it is one."""


def _fold(found: _Found, shape: Shape) -> Known:
    v, twice = (found.tensors.get(label) for label in ("v", "twice"))
    if v is None or twice is None or v.shape != (*shape[:2], *[1] * (len(shape) - 2)):
        return None
    return ({}, {"direction": v.reshape(shape[:2])}) if torch.equal(twice, 2 * v) else None


def _n_activation(found: _Found, shape: Shape) -> Known:
    ends = {role: found.tensors.get(role) for role in ("low", "high")}
    of_channels = (shape[0], *[1] * (len(shape) - 1)) if shape else ()
    held = {role: t.flatten() for role, t in ends.items() if t is not None and shape}
    same = all(t is not None and t.shape == of_channels for t in ends.values())
    return ({}, held) if same and len(held) == 2 else None


def _linear_spline(found: _Found, shape: Shape) -> Known:
    held, ends = found.tensors, found.args.get("ends", {})
    if held.keys() != {"slopes", "low", "high", "anchor", "first", "last"} or not shape:
        return None
    places = [1] * (len(shape) - 1)
    slopes, step = held["slopes"], held["high"].max().item()
    half = slopes.shape[1] // 2 if slopes.dim() > 1 else 0
    exact = 0 < step < math.inf and (math.frexp(step)[0] * 2**12).is_integer()
    if not exact or slopes.shape != (shape[0], 2 * half, *places) or not 0 < half < 1024:
        return None
    slopes = slopes.flatten(1)
    outwards = torch.arange(half, dtype=slopes.dtype, device="cpu") * step
    none, whole = torch.zeros_like(outwards), torch.full_like(outwards, step)
    expected = {
        "anchor": torch.cat((-outwards.flip(0), outwards)),
        "low": torch.cat((-whole, none)),
        "high": torch.cat((none, whole)),
    }
    same = all(
        torch.equal(held[label], value.reshape(-1, *places)) for label, value in expected.items()
    )
    for label, column in (("first", 0), ("last", -1)):
        same = same and torch.equal(held[label], slopes[:, column].reshape(-1, *places))
    same = same and dict(ends) == {"min": -half * step, "max": half * step}
    return ({"step": step}, {"slopes": slopes}) if same else None


def _spline_pattern() -> _Step:
    inside = _Step("clamp", ("x",), label="ends")
    beyond = _Step("add", ("x", inside), _DIFFERENCE)
    shifted = _Step(
        "add", (_Step("reshape", (inside,)),), {"factors": [1.0], "constant": -1.0}, "anchor"
    )
    parts = _Step("minimum", (_Step("maximum", (shifted,), label="low"),), label="high")
    inner = _Step(
        "sum", (_Step("scale", (parts,), label="slopes"),), {"axes": [1], "keepdim": False}
    )
    first = _Step("scale", (_Step("clamp", (beyond,), _BELOW),), label="first")
    last = _Step("scale", (_Step("clamp", (beyond,), _ABOVE),), label="last")
    return _Step("add", (inner, _Step("add", (first, last), _SUM)), _SUM)


_PATTERNS: list[tuple[str, _Step, Callable[[_Found, Shape], Known]]] = [
    ("HouseHolder", _Step("add", ("x", _Step("scale", (_Step("clamp", (
        _Step("sum", (_Step("scale", ("x",), label="v"),), {"axes": [1], "keepdim": True}),
     ), _BELOW),), label="twice")), _DIFFERENCE), _fold),
    ("NActivation", _Step("add", ("x", _Step("scale", (_Step("minimum", (
        _Step("maximum", ("x",), label="low"),
     ), label="high"),), {"factor": 2.0})), _DIFFERENCE), _n_activation),
    ("LinearSpline", _spline_pattern(), _linear_spline),
]  # fmt: skip
