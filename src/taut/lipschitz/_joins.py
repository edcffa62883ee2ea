"""What the functions of a graph do to Lipschitz constants and rounding errors."""

import operator
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from taut.linalg.rounding import up_product, up_root
from taut.lipschitz import _functions as functions
from taut.lipschitz._functions import Call
from taut.lipschitz._registry import rule_of
from taut.lipschitz._result import UnprovenError
from taut.lipschitz._rounding import Rounding, norm_bound, rounding_of

__all__ = ["Join", "join_of"]

_ROUNDED = 1 + 2.0**-40
"""Covers the float64 rounding of the few operations on constants."""


@final
@dataclass(frozen=True)
class Join:
    """How a function puts its inputs together.

    Attributes:
        combine: whether what the inputs contribute adds, or stands side by side ("root" of the sum
            of squares).
        gains: Lipschitz constant with respect to each input.
        rounding: of the whole; its `absolute` counts for an input where it is above the gain. None
            in real arithmetic.

    Example:
        >>> Join("sum", (1.0, 1.0), Rounding(3, 1.0)).combine
        'sum'
    """

    combine: Literal["sum", "root"]
    gains: tuple[float, ...]
    rounding: Rounding | None


def join_of(
    node: fx.Node,
    values: dict[fx.Node, Any],
    signals: tuple[fx.Node, ...],
    *,
    real: bool = False,
) -> Join:
    """What a function or method does, at a place of a graph that `lipschitz_bound` accepted.

    Args:
        node: the call.
        values: of its inputs and of itself, at one batch.
        signals: those of its inputs that depend on the model's input.
        real: whether its rounding is left out.

    Raises:
        UnprovenError: if its rounding has no bound.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> twice = graph.call_function(torch.add, (x, x))
        >>> values = {x: torch.ones(2, 3), twice: torch.full((2, 3), 2.0)}
        >>> round(join_of(twice, values, (x,)).gains[0], 9)
        2.0
    """
    gains = tuple(_gain(node, values, signals, chosen) for chosen in signals)
    target = node.target
    side_by_side = (torch.cat, torch.concat, torch.stack, torch.maximum, torch.minimum)
    combine = "root" if target in side_by_side else "sum"
    if real:
        return Join(combine, gains, None)
    if target in functions.AS_MODULES:
        kind = functions.AS_MODULES[target]
        args, kwargs = _fill(node, values)
        module = kind(*args[1:], **kwargs)
        rounding = rounding_of(module, tuple(args[0].shape[1:]))
        if not isinstance(rounding, Rounding):
            raise UnprovenError("its rounding has no bound as a function; make it a module")
        return Join("sum", gains, rounding)
    return Join(combine, gains, _rounding(node, values, signals, gains))


def _gain(
    node: fx.Node, values: dict[fx.Node, Any], signals: tuple[fx.Node, ...], chosen: fx.Node
) -> float:
    """Constant of the result in one input alone."""
    slopes = {signal: float(signal is chosen) for signal in signals}
    args, kwargs = _fill(node, values)
    call = Call(args, kwargs, tuple(_slopes(arg, slopes) for arg in node.args), values[node])
    target = node.target
    if target in functions.SELECTIONS:
        return _selection(node, args, kwargs)
    if target in functions.AS_MODULES:
        module = functions.AS_MODULES[target](*args[1:], **kwargs)
        return rule_of(module, node.name)(module, tuple(args[0].shape[1:])).value
    return functions.ARITHMETIC[target](call)


def _selection(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    if not isinstance(args[0], Tensor):
        return 1.0  # one of several parts
    gain = functions.selection_gain(
        lambda numbers: _apply(node, (numbers, *args[1:]), kwargs),
        tuple(args[0].shape),
        args[0].device,
    )
    return up_root(float(gain))


def _rounding(
    node: fx.Node,
    values: dict[fx.Node, Any],
    signals: tuple[fx.Node, ...],
    gains: tuple[float, ...],
) -> Rounding:
    """f(0) is what constants add, but for the ends of a clamp, which are rounded themselves."""
    target = node.target
    if node.kwargs.get("dtype") is not None:
        raise UnprovenError("`dtype` makes it round in a precision of its own; leave it out")
    quiet = {n: _zeros(v) if n in signals else v for n, v in values.items()}
    args, kwargs = _fill(node, quiet)
    result = _apply(node, args, kwargs)
    parts = result if isinstance(result, tuple | list) else (result,)
    constant = up_product(norm_bound(torch.cat([p[0].flatten() for p in parts])), _ROUNDED)
    largest = max(gains, default=0.0)
    if target in (torch.clamp, "clamp"):
        ends = [v for v in (*args[1:], *kwargs.values()) if v is not None]
        end = max(float(torch.as_tensor(v).abs().max()) for v in ends)
        size = float(values[node][0].numel())
        return Rounding(1, 1.0, up_product(end, up_root(size)))
    if target in _COUNTS:
        return Rounding(_COUNTS[target], largest, constant)
    if target in _REDUCTIONS:
        # A mean divides last: until then it is a sum.
        terms = values[signals[0]].numel() // max(1, sum(p.numel() for p in parts))
        return Rounding(terms + 2, up_product(largest, float(terms)), constant)
    if constant == 0.0 or target not in functions.SELECTIONS:
        return Rounding(0, 0.0, constant)  # copies of signals and of stored numbers
    return Rounding(1, largest, constant)  # a fill value, rounded to the signal's precision


# A factor or summand that is a Python number is rounded first; then the product, then the sum.
_COUNTS: dict[Any, int] = dict.fromkeys(
    (
        operator.add, operator.iadd, torch.add, "add", operator.sub, operator.isub, torch.sub,
        "sub", operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div",
    ),
    3,
)  # fmt: skip
_REDUCTIONS = (torch.sum, "sum", torch.mean, "mean")


def _apply(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if node.op == "call_method":
        return operator.methodcaller(str(node.target), *args[1:], **kwargs)(args[0])
    function: Any = node.target
    return function(*args, **kwargs)


def _fill(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args: Any = map_arg(node.args, lambda n: values[n])
    kwargs: Any = map_arg(node.kwargs, lambda n: values[n])
    return args, kwargs


def _zeros(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return type(value)(map(_zeros, value)) if isinstance(value, tuple | list) else value


def _slopes(arg: Any, slopes: dict[fx.Node, float]) -> Any:
    """As `Call` wants them: None for what does not depend on the input, a list for a list."""
    if isinstance(arg, fx.Node):
        return slopes.get(arg)
    found: list[fx.Node] = []
    map_arg(arg, lambda n: found.append(n) or n)
    inner = [slopes.get(n) for n in found]
    return inner if any(slope is not None for slope in inner) else None
