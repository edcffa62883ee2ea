"""The checks of types and shapes in each call, as `jaxtyping.jaxtyped` makes them, at less cost.

jaxtyping checks arguments twice and keeps a record of shapes for each call, even where no
annotation names a shape. Small tests spend most of their time there. Here, beartype checks
arguments and results in one pass, and only calls with shapes keep a record.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from contextlib import nullcontext
from types import FunctionType, SimpleNamespace
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped
_SHAPES = _jaxtyped("context")  # a record of the sizes of named axes, for one call
_beartype = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def jaxtyped(*, typechecker: Callable) -> Callable:
    """The decorator that the import hook of jaxtyping adds to each function and class."""

    def decorate(fn: Any) -> Any:
        if not inspect.isclass(fn):
            return _checked(fn, typechecker)
        if "__dataclass_fields__" in vars(fn) and "__wrapped__" not in vars(fn.__init__):
            fn.__init__ = _checked(fn.__init__, typechecker)
        return fn

    return decorate


def _checked(fn: FunctionType, typechecker: Callable) -> Callable:
    """A function whose arguments and result are checked."""
    if not fn.__annotations__:
        return fn
    if inspect.isgeneratorfunction(fn):  # what it yields is not checked
        return _jaxtyped(fn, typechecker=typechecker)
    hints = _resolved(fn.__annotations__, fn.__globals__)
    body = FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    body.__module__, body.__qualname__ = fn.__module__, fn.__qualname__
    body.__kwdefaults__, body.__annotations__ = fn.__kwdefaults__, hints
    checked = _beartype(body)
    sizes_agree = _SHAPES if any(map(_has_shape, hints.values())) else nullcontext()

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        with sizes_agree:
            return checked(*args, **kwargs)

    return wrapper


def _resolved(hints: dict[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    """Annotations with names for types; those that are not defined yet are not checked."""
    try:
        return typing.get_type_hints(
            SimpleNamespace(__annotations__=hints), scope, include_extras=True
        )
    except Exception:
        if len(hints) == 1:
            return dict.fromkeys(hints, Any)
        return {k: v for name in hints for k, v in _resolved({name: hints[name]}, scope).items()}


def _has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, typing.get_args(hint)))
