"""Functions of one value that are written out step by step become one operation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, final

from torch import Tensor

from taut.program._program import Node, Program
from taut.program.ops._gated import GATES, is_gelu_tanh
from taut.program.passes._rewriting import rebuilt

__all__ = ["recognise_functions"]


def recognise_functions(program: Program) -> Program:
    r"""Steps that together are a known function of each entry of a value are that function.

    Each pattern below is an identity of functions of a real number: both sides are equal at each x,
    for all numbers that stand for its letters. So the program computes what it did. Factors of 1
    and terms of 0 are left out first. Products :math:`x (p + q h(c x))` are recognised by
    computing p, q and c from the steps in rational numbers, where these are exact in float64.

    Softplus and Mish count as equal to their forms with a threshold, which torch itself computes:
    above it they are off by less than :math:`2.1 \cdot 10^{-9}`.
    """
    state = _State(program)
    for original in program.nodes:
        state.add(original)
    return state.program()


@final
@dataclass(frozen=True)
class _Step:
    """A pattern: an operation, patterns of its inputs, and its arguments.

    A pattern is a step, or "x" for the value that the whole is a function of. Arguments that are
    words stand for any number, the same at each place; after a "-" for its negative.
    """

    op: str
    inputs: tuple["_Step | str", ...]
    args: Mapping[str, Any]


def _s(op: str, *inputs: "_Step | str", **args: Any) -> _Step:
    return _Step(op, inputs, args)


def _choice(x: Any, *branches: Any, above: Any = None, below: Any = None, at: Any = 0.0) -> _Step:
    return _Step("choice", (x, *branches), {"threshold": at, "above": above, "below": below})


def _clamped(x: Any, low: Any, high: Any) -> _Step:
    return _s("clamp", x, min=low, max=high)


_SUM = {"factors": [1.0, 1.0], "constant": 0.0}
_DIFFERENCE = {"factors": [1.0, -1.0], "constant": 0.0}
_SIX = tuple(
    cut(_s("add", "x", factors=[1.0], constant=3.0))
    for cut in (lambda x: _clamped(x, 0.0, 6.0), lambda x: _s("relu6", x),
                lambda x: _s("hardtanh", x, min_val=0.0, max_val=6.0))
)  # fmt: skip
_LOG1P_EXP = _s("log1p", _s("exp", "x"))
_SCALED = _s("scale", "x", factor="beta")

Letters = dict[str, Any]
Made = tuple[str, dict[str, Any]]

_PATTERNS: list[tuple[_Step, Callable[[Letters], Made | None]]] = [
    (_s("product", "x", _s("sigmoid", "x")), lambda _: ("silu", {})),
    (_s("product", "x", _s("tanh", _s("softplus", "x", beta=1.0, threshold="t"))),
     lambda _: ("mish", {})),
    (_s("quotient", "x", _s("add", _s("abs", "x"), factors=[1.0], constant=1.0)),
     lambda _: ("softsign", {})),
    (_s("add", "x", _s("tanh", "x"), **_DIFFERENCE), lambda _: ("tanhshrink", {})),
    # Hardswish and Hardsigmoid.
    *((_s("divide", _s("product", "x", six), divisor=6.0), lambda _: ("hardswish", {}))
      for six in _SIX),
    *((_s("divide", six, divisor=6.0), lambda _: ("hardsigmoid", {})) for six in _SIX),
    (_s("product", "x", _s("hardsigmoid", "x")), lambda _: ("hardswish", {})),
    # Exponentials and logarithms.
    (_choice("x", "x", _LOG1P_EXP, at="t"), lambda n: _softplus(1.0, n["t"])),
    (_choice(_SCALED, "x", _s("divide", _s("log1p", _s("exp", _SCALED)), divisor="beta"), at="t"),
     lambda n: _softplus(n["beta"], n["t"])),
    (_choice("x", "x", _s("softplus", "x", beta=1.0, threshold="t"), at="t"),
     lambda n: _softplus(1.0, n["t"])),
    (_choice(_SCALED, "x", _s("divide", _s("softplus", _SCALED, beta=1.0, threshold="t"),
                              divisor="beta"), at="t"),
     lambda n: _softplus(n["beta"], n["t"])),
    (_s("log", _s("sigmoid", "x")), lambda _: ("logsigmoid", {})),
    (_s("add", _s("minimum", "x", number=0.0), _s("log1p", _s("exp", _s("neg", _s("abs", "x")))),
        **_DIFFERENCE), lambda _: ("logsigmoid", {})),
    (_choice("x", "x", _s("expm1", "x")), lambda _: ("elu", {"alpha": 1.0})),
    (_choice("x", "x", _s("scale", _s("expm1", "x"), factor="a")),
     lambda n: ("elu", {"alpha": n["a"]})),
    (_choice("x", "x", _s("scale", _s("expm1", _s("divide", "x", divisor="a")), factor="a")),
     lambda n: ("celu", {"alpha": n["a"]}) if n["a"] > 0 else None),
    # Straight pieces.
    (_choice("x", "x", _s("scale", "x", factor="a")),
     lambda n: ("leaky_relu", {"negative_slope": n["a"]})),
    (_choice("x", "x", below="t", at="t"), lambda n: ("clamp", {"min": n["t"], "max": None})),
    (_choice("x", "x", above="t", at="t"), lambda n: ("clamp", {"min": None, "max": n["t"]})),
    (_choice(_s("abs", "x"), "x", below=0.0), lambda _: ("same", {})),
    (_clamped(_clamped("x", "low", None), None, "high"),
     lambda n: ("clamp", {"min": n["low"], "max": n["high"]}) if n["low"] <= n["high"] else None),
    *((_choice(_s("abs", "x"), _s("add", "x", _s("scale", _s("sign", "x"), factor="l"),
                                  **_DIFFERENCE), *zero, at="l", below=below),
       lambda n: ("softshrink", {"lambd": n["l"]}) if n["l"] >= 0 else None)
      for zero, below in (((_s("scale", "x", factor=0.0),), None), ((), 0.0))),
    (_s("add", _choice("x", _s("add", "x", factors=[1.0], constant="-l"), at="l", below=0.0),
        _choice("x", _s("add", "x", factors=[1.0], constant="l"), at="-l", above=0.0), **_SUM),
     lambda n: ("softshrink", {"lambd": n["l"]}) if n["l"] >= 0 else None),
]  # fmt: skip


def _softplus(beta: float, threshold: float) -> Made | None:
    """As the capture of softplus has it; other thresholds are refused there."""
    known = 20 <= threshold <= 88 and beta > 0
    return ("softplus", {"beta": beta, "threshold": threshold}) if known else None


_SWAPPED = ("product", "add", "minimum")


@final
class _State:
    """The program while it is rewritten."""

    def __init__(self, before: Program) -> None:
        self.before, self.tensors = before, dict(before.tensors)
        self.made: dict[str, Node] = {}
        self.names: dict[str, str] = {}

    def add(self, original: Node) -> None:
        """A node, or what it is together with those before it."""
        inputs = tuple(self.names.get(name, name) for name in original.inputs)
        node = replace(original, inputs=inputs)
        if not node.path or node.path != node.name or not node.tensors:
            node = self._known(node)
        if node.op == "same":
            self.names[node.name] = node.inputs[0]
        self.made[node.name] = node

    def program(self) -> Program:
        """All nodes that are still needed."""
        output = self.names.get(self.before.output, self.before.output)
        before = replace(self.before, tensors=self.tensors, output=output)
        return rebuilt(before, [node for node in self.made.values() if node.op != "same"])

    def _known(self, node: Node) -> Node:
        if self._does_nothing(node):
            return replace(node, op="same")
        for pattern, result in _PATTERNS:
            letters: Letters = {}
            if self._matches(pattern, node, letters):
                made = result(letters)
                if made is not None:
                    return self._as(node, letters["x"], *made)
        slopes = self._slopes(node)
        if slopes is not None:
            return slopes
        gate = _Gates(self.made).of(node) if node.op == "product" else None
        return node if gate is None else self._as(node, gate[0], "gated", gate[1])

    def _does_nothing(self, node: Node) -> bool:
        shape = self.before.shapes[node.inputs[0]] if node.inputs else None
        if node.tensors or shape != node.shape:
            return False
        args = node.args
        return (
            args.get("factor" if node.op == "scale" else "divisor") == 1.0
            if node.op in ("scale", "divide")
            else node.op == "add" and args == {"factors": [1.0], "constant": 0.0}
        )

    def _as(self, node: Node, x: str, op: str, args: dict[str, Any]) -> Node:
        kind = op if node.type in ("", node.op) or not node.path else node.type
        return replace(node, op=op, inputs=(x,), args=args, tensors={}, type=kind)

    def _matches(self, pattern: _Step | str, node: Node, letters: Letters) -> bool:
        """Whether a node is a pattern; letters get their values."""
        assert isinstance(pattern, _Step)
        if node.op != pattern.op or len(node.inputs) != len(pattern.inputs):
            return False
        if self.before.shapes.get(node.inputs[0]) != node.shape:
            return False
        if not self._same_args(pattern, node, letters):
            return False
        orders = [node.inputs]
        if len(node.inputs) == 2 and pattern.op in _SWAPPED and pattern.args != _DIFFERENCE:
            orders.append(node.inputs[::-1])
        for order in orders:
            trial = dict(letters)
            if all(
                self._fits(part, name, trial)
                for part, name in zip(pattern.inputs, order, strict=True)
            ):
                letters |= trial
                return True
        return False

    def _fits(self, pattern: _Step | str, name: str, letters: Letters) -> bool:
        if isinstance(pattern, str):
            return letters.setdefault(pattern, name) == name
        return name in self.made and self._matches(pattern, self.made[name], letters)

    def _same_args(self, pattern: _Step, node: Node, letters: Letters) -> bool:
        args = {k: v for k, v in node.args.items() if k != "equal"}
        if node.tensors:
            (role,) = node.tensors if len(node.tensors) == 1 else ("",)
            number = _single(self.tensors[node.tensors[role]]) if role else None
            args |= {"number": number}
        if args.keys() != pattern.args.keys():
            return False
        return all(_same(wanted, args[key], letters) for key, wanted in pattern.args.items())

    def _slopes(self, node: Node) -> Node | None:
        """PReLU: x above 0, and below a multiple for each channel."""
        args = {"threshold": 0.0, "above": None, "below": None}
        below = self.made.get(node.inputs[-1]) if node.inputs else None
        if node.op != "choice" or below is None or below.op != "scale" or not below.tensors:
            return None
        x = node.inputs[0]
        if {**node.args, "equal": None} != {**args, "equal": None}:
            return None
        same = node.inputs[:2] == (x, x) and below.inputs == (x,) and len(node.inputs) == 3
        name = below.tensors["factor"]
        factor, shape = self.tensors[name], node.shape
        if not same or self.before.shapes[x] != shape or below.shape != shape:
            return None
        sizes = (*[1] * (len(shape) - factor.dim()), *factor.shape)
        if any(n != 1 for n in sizes[1:]):
            return None
        key = f"{node.name}.weight"
        self.tensors[key] = factor.flatten()
        known = self._as(node, x, "prelu", {})
        return replace(known, tensors={"weight": key})


def _same(wanted: Any, value: Any, letters: Letters) -> bool:
    """Whether an argument is the one of a pattern."""
    if not isinstance(wanted, str):
        return wanted == value and (wanted is None) == (value is None)
    if not isinstance(value, float):
        return False
    sign = -1.0 if wanted.startswith("-") else 1.0
    return letters.setdefault(wanted.removeprefix("-"), sign * value) == sign * value


def _single(tensor: Tensor) -> float | None:
    return tensor.item() if tensor.numel() == 1 and tensor.is_floating_point() else None


Line = tuple[str, Fraction, Fraction]
"""A value as p + q y: the name of y, q and p."""


@final
class _Gates:
    """Products of a value and a function of it."""

    def __init__(self, made: Mapping[str, Node]) -> None:
        self.made = made

    def of(self, node: Node) -> tuple[str, dict[str, Any]] | None:
        """The value and the arguments of `gated` that a product is, if it is one."""
        for signal, gate in (node.inputs, node.inputs[::-1]):
            x, outer, shift = self._line(signal)
            h, factor, constant = self._line(gate)
            function = self.made.get(h)
            if shift or function is None or function.op not in GATES or function.tensors:
                continue
            inner = self._inner(function.inputs[0], x)
            numbers = [outer * constant, outer * factor]
            if inner is None or any(Fraction(float(n)) != n for n in numbers):
                continue
            cubic = inner.get("cubic")
            if cubic and (function.op != "tanh" or not is_gelu_tanh(inner["inner"], cubic)):
                continue
            args = {"function": function.op, "constant": float(numbers[0])}
            return x, args | {"factor": float(numbers[1])} | inner
        return None

    def _line(self, name: str) -> Line:
        """Through factors and terms that are numbers, back to what is no longer one of them."""
        factor, constant = Fraction(1), Fraction(0)
        while name in self.made:
            node = self.made[name]
            step = _affine(node)
            if step is None:
                break
            constant, factor = constant + factor * step[1], factor * step[0]
            name = node.inputs[0]
        return name, factor, constant

    def _inner(self, name: str, x: str) -> dict[str, Any] | None:
        """What the gate is a function of, as a multiple of x or of x + d x^3."""
        y, factor, constant = self._line(name)
        if constant or not factor:
            return None
        cubic = 0.0
        if y != x:
            found = self._cubic(y, x)
            if found is None:
                return None
            cubic = found
        if Fraction(float(factor)) == factor:
            return {"inner": float(factor), "divides": False, "cubic": cubic}
        inverse = 1 / factor
        if cubic or Fraction(float(inverse)) != inverse:
            return None
        return {"inner": float(inverse), "divides": True, "cubic": cubic}

    def _cubic(self, name: str, x: str) -> float | None:
        """The d of x + d x^3."""
        node = self.made.get(name)
        if node is None or node.op != "add" or node.args != _SUM:
            return None
        for first, second in (node.inputs, node.inputs[::-1]):
            third, factor, constant = self._line(second)
            exact = Fraction(float(factor)) == factor
            if first == x and not constant and exact and self._is_cube(third, x):
                return float(factor)
        return None

    def _is_cube(self, name: str, x: str) -> bool:
        node = self.made.get(name)
        if node is None:
            return False
        if node.op == "power":
            return node.inputs == (x,) and node.args["exponent"] == 3.0
        if node.op != "product" or x not in node.inputs:
            return False
        other = self.made.get(node.inputs[1] if node.inputs[0] == x else node.inputs[0])
        if other is None:
            return False
        square = other.op == "power" and other.args["exponent"] == 2.0
        return (other.op == "product" and other.inputs == (x, x)) or (
            square and other.inputs == (x,)
        )


def _affine(node: Node) -> tuple[Fraction, Fraction] | None:
    """The factor and the term of a step that has numbers for them."""
    if node.tensors or len(node.inputs) != 1:
        return None
    if node.op == "scale":
        return Fraction(node.args["factor"]), Fraction(0)
    if node.op == "divide":
        return 1 / Fraction(node.args["divisor"]), Fraction(0)
    if node.op == "neg":
        return Fraction(-1), Fraction(0)
    if node.op == "add":
        return Fraction(node.args["factors"][0]), Fraction(node.args["constant"])
    return None
