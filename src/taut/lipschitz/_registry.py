"""Which exact module types have a rule."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from taut.linalg.bounds import NormBound, conv_norm_bound
from taut.linalg.operators import ConvOperator
from taut.lipschitz._result import UnprovenError

__all__ = [
    "adjoint_of",
    "is_leaf",
    "is_linear",
    "norm_operator_of",
    "operator_of",
    "register",
    "register_adjoint",
    "register_linear",
    "rule_of",
]

# Modules differ in their attributes; a rule knows the ones of its own type.
Rule = Callable[[Any, tuple[int, ...]], NormBound]
OperatorRule = Callable[[Any, tuple[int, ...]], ConvOperator]
_R = TypeVar("_R", bound=Rule)
_O = TypeVar("_O", bound=OperatorRule)

_RULES: dict[type, Rule] = {}
_FORWARDS: dict[type, Any] = {}
_OPERATORS: dict[type, OperatorRule] = {}
_ADJOINTS: dict[type, OperatorRule] = {}
_LINEAR: set[type] = set()


def register(kind: type[nn.Module], *, linear: bool = False) -> Callable[[_R], _R]:
    """Say by how much a module of exactly this type can multiply l2 distances.

    Args:
        kind: the type; its subclasses stay unknown.
        linear: whether the module is an affine map, so that it has singular values.

    Returns:
        A decorator for the rule `(module, shape) -> NormBound`; `shape` is the shape of the one
        input without its batch dimension.

    Example:
        >>> class Halve(nn.Module):
        ...     def forward(self, x):
        ...         return x.pow(1) / 2
        >>> @register(Halve, linear=True)
        ... def halve(module, shape):
        ...     return NormBound(0.5, "division by 2")
    """

    def add(rule: _R) -> _R:
        _RULES[kind], _FORWARDS[kind] = rule, kind.forward
        _OPERATORS.pop(kind, None)
        _ADJOINTS.pop(kind, None)
        if linear:
            _LINEAR.add(kind)
        return rule

    return add


def register_linear(kind: type[nn.Module]) -> Callable[[_O], _O]:
    """Give the operator of a module type; its bound and its spectrum follow.

    Args:
        kind: the type; its subclasses stay unknown.

    Returns:
        A decorator for the rule `(module, shape) -> ConvOperator`. A rule may give the operator of
        one slice, when the module applies the same one to each (a matrix on every row).

    Example:
        >>> import torch
        >>> class Double(nn.Module):
        ...     def forward(self, x):
        ...         return 2.0 * x
        >>> @register_linear(Double)
        ... def double(module, shape):
        ...     return ConvOperator(2 * torch.eye(shape[-1]), ())
    """

    def add(rule: _O) -> _O:
        register(kind, linear=True)(lambda module, shape: conv_norm_bound(rule(module, shape)))
        _OPERATORS[kind] = rule
        return rule

    return add


def register_adjoint(kind: type[nn.Module]) -> Callable[[_O], _O]:
    """Give the operator whose adjoint a module type is; its bound follows.

    Args:
        kind: the type; its subclasses stay unknown.

    Returns:
        A decorator for the rule `(module, shape) -> ConvOperator`; `shape` is that of the module's
        input, which is the operator's output.

    Example:
        >>> import torch
        >>> class Twice(nn.Module):
        ...     def forward(self, x):
        ...         return 2.0 * x
        >>> @register_adjoint(Twice)
        ... def twice(module, shape):
        ...     return ConvOperator(2 * torch.eye(shape[-1]), ())
    """

    def add(rule: _O) -> _O:
        register(kind, linear=True)(lambda module, shape: conv_norm_bound(rule(module, shape)))
        _ADJOINTS[kind] = rule
        return rule

    return add


def is_linear(module: nn.Module) -> bool:
    """Whether the exact type of the module is registered as an affine map."""
    return type(module) in _LINEAR


def is_leaf(module: nn.Module) -> bool:
    """Whether a rule must answer for the module, because its forward is not to be followed.

    Registered types, their subclasses (they may compute something else, fail closed) and torch's
    own modules but Sequential.
    """
    ours = isinstance(module, tuple(_RULES))
    torchs = type(module).__module__.startswith("torch.") and type(module) is not nn.Sequential
    return ours or torchs


def rule_of(module: nn.Module, name: str) -> Rule:
    """The rule for the module's exact type.

    Raises:
        UnprovenError: if there is none, with the line that would add it; or if the forward of the
            type is no longer the one that the rule was given for.
    """
    kind = type(module)
    if kind in _RULES and kind.forward is not _FORWARDS[kind]:
        raise UnprovenError(f"`{name}` is a {kind.__qualname__}, which has a replaced forward.")
    if kind in _RULES:
        return _RULES[kind]
    raise UnprovenError(
        f"`{name}` is a {kind.__module__}.{kind.__qualname__}, which has no proven Lipschitz "
        f"bound; with a proof, add `taut.lipschitz.register({kind.__name__})(rule)`, where "
        "rule(module, shape) returns a NormBound."
    )


def operator_of(module: nn.Module, shape: tuple[int, ...]) -> ConvOperator | None:
    """The operator of the module on one slice of the input, if its type was given with one."""
    rule = _OPERATORS.get(type(module))
    return None if rule is None else rule(module, shape)


def adjoint_of(module: nn.Module, shape: tuple[int, ...]) -> ConvOperator | None:
    """The operator whose adjoint the module is, if its type was given so."""
    rule = _ADJOINTS.get(type(module))
    return None if rule is None else rule(module, shape)


def norm_operator_of(module: nn.Module, shape: tuple[int, ...]) -> ConvOperator | None:
    """An operator of the same norm as the module, if its type was given with one."""
    op = operator_of(module, shape)
    return adjoint_of(module, shape) if op is None else op
