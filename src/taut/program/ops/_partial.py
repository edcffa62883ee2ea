"""Functions without a bound of their own, which passes know as parts of functions that have one.

SiLU is a product of two signals, Softplus a logarithm of an exponential: files and forwards write
them out. Their steps stand in a program until `recognise_functions` names the whole; what is left
of them then is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from taut.program._call import Call, Condition, Unknown
from taut.program._op import AbstractOp, captures, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._arithmetic import _check_batch, _number
from taut.program.ops._refused import FUNCTIONS_REFUSED

__all__: list[str] = []


class AbstractPart(AbstractOp):
    """A step without a bound; `reason` says why."""

    partial = True
    reason = ""
    function: Callable[..., Tensor]

    def gains(self, site: Site) -> tuple[float, ...]:
        """There are none."""
        raise UnprovenError(self.reason)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Apply the function."""
        return type(self).function(*x, **site.args)


def _part(kind: str, function: Callable[..., Tensor], reason: str = "") -> None:
    reason = reason or FUNCTIONS_REFUSED[kind]
    op(kind)(type(kind, (AbstractPart,), {"function": function, "reason": reason}))


def _of_one(c: Call, input: Tensor, *, kind: str) -> str:
    return c.add(kind, [c.name(input)])


for _kind in ("exp", "expm1", "log", "log1p", "sign"):
    _part(_kind, getattr(torch, _kind))
    captures(_kind, kind=_kind)(_of_one)
_part("power", torch.pow, FUNCTIONS_REFUSED["pow"])
_part("product", torch.mul, "a product of two signals has no Lipschitz constant")
_part("quotient", torch.div, "it may only divide the signal by constants")


@captures("pow", "__pow__")
def power(c: Call, input: Any, exponent: Any) -> str:
    """A power with a number for the exponent."""
    if not c.is_signal(input) or not isinstance(exponent, int | float):
        raise UnprovenError(FUNCTIONS_REFUSED["pow"])
    return c.add("power", [c.name(input)], args={"exponent": _number(exponent)})


@captures("square")
def square(c: Call, input: Tensor) -> str:
    """A power of 2."""
    return c.add("power", [c.name(input)], args={"exponent": 2.0})


@op("choice")
class Choice(AbstractPart):
    """One value where another is above a number, and a second one elsewhere.

    Inputs are the value that is compared, and those of the branches that are no numbers: `above`
    and `below` are numbers, or None.
    """

    reason = (
        "it chooses between two values, and is not known to be continuous where the choice changes"
    )

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Choose."""
        compared, *rest = x
        args, values = site.args, iter(rest)
        condition = (torch.ge if args["equal"] else torch.gt)(compared, args["threshold"])
        above, below = (
            next(values) if args[role] is None else args[role] for role in ("above", "below")
        )
        return torch.where(condition, above, below)


_ABOVE = {"gt": (False, False), "ge": (True, False), "lt": (True, True), "le": (False, True)}
"""Whether a comparison is one of "at least", and whether it is the contrary of that."""


def _compared(c: Call, input: Any, other: Any, *, kind: str) -> Unknown:
    """A truth value: no number, but a choice may follow it."""
    reason = f"`{c.function}` has no proven bound: it gives truth values, which jump"
    number = _single(c, other)
    if not c.is_signal(input) or number is None:
        return Unknown(reason)
    return Unknown(reason, Condition(c.name(input), number, *_ABOVE[kind]))


def _single(c: Call, value: Any) -> float | None:
    """A constant that is one number, if it is."""
    if isinstance(value, Tensor):
        if c.is_signal(value) or value.numel() != 1:
            return None
        value = value.item()
    return _number(value)


for _kind, _names in {
    "gt": ("gt", "greater", "__gt__"), "ge": ("ge", "greater_equal", "__ge__"),
    "lt": ("lt", "less", "__lt__"), "le": ("le", "less_equal", "__le__"),
}.items():  # fmt: skip
    captures(*_names, kind=_kind)(_compared)


@captures("where")
def where(c: Call, condition: Tensor, input: Any = None, other: Any = None) -> str:
    """A choice by a comparison of a signal with a number."""
    known = c.condition(condition)
    if known is None or input is None or other is None:
        raise UnprovenError("its condition must be a comparison of the signal with a number")
    return chosen(c, known, input, other)


def chosen(c: Call, condition: Condition, holds: Any, fails: Any) -> str:
    """The node of a choice; branches are signals of the shape of the result, or numbers."""
    _check_batch(c, holds, fails)
    branches = (fails, holds) if condition.contrary else (holds, fails)
    args: dict[str, Any] = {"threshold": condition.threshold, "equal": condition.equal}
    names = [condition.name]
    for role, branch in zip(("above", "below"), branches, strict=True):
        args[role] = None
        if c.is_signal(branch):
            names.append(c.name(branch))
            continue
        args[role] = _single(c, branch)
        if args[role] is None:
            raise UnprovenError("its branches must be the signal or numbers")
    return c.add("choice", names, args=args)


# What nodes of ONNX are, as functions of torch.

reads("Sign")(lambda x: torch.sign(x))
