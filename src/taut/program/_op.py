r"""What is known of an operation, in one class: gains or operator, rounding, replay, emission.

To teach taut a layer of your own, register an op for exactly its type:

>>> from torch import nn
>>> class Flip(nn.Module):
...     def forward(self, x):
...         return x.flip(-1)
>>> @op(Flip)
... class FlipOp(AbstractOp):
...     proof = "permutation"
...     exact = True
...     def gains(self, site):
...         return (1.0,)
>>> float(taut.lipschitz_bound(nn.Sequential(Flip(), nn.Sigmoid()), (3,)))
0.25

A layer that is a convolution or a matrix gives its operator; bound and rounding follow:

>>> from taut.linalg.matrix import MatrixOperator
>>> class Tripled(nn.Module):
...     def forward(self, x):
...         return 3.0 * x
>>> @op(Tripled)
... class TripledOp(AbstractOp):
...     def operator(self, site):
...         return MatrixOperator(3.0 * torch.eye(site.shape[0]))
>>> taut.singular_values(Tripled(), (2,)).tolist()
[3.0, 3.0]
"""

import copy
import functools
import inspect
import threading
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.convolution import ConvOperator
from taut.linalg.operator import AbstractOperator, NormBound
from taut.program._program import Node, Site
from taut.program._result import UnprovenError
from taut.program._rounding import EXACT, Rounding, norm_upper, operator_rounding

__all__ = [
    "CAPTURES", "EXACT", "KINDS", "MODULES", "READS", "AbstractOp", "Rounding", "captures",
    "integers", "like", "norm_upper", "op", "op_of", "reads",
]  # fmt: skip

Gain = float | NormBound
_T = TypeVar("_T", bound="AbstractOp")


class AbstractOp(ABC):  # noqa: B024 - it refuses whatever a class does not state
    """Everything that taut knows of one operation; missing rules raise an error with its name.

    State either `gains` or, where the operation is linear in one input (up to a bias), `operator`.

    Attributes:
        proof: in words, why the gains hold.
        combine: whether the inputs' contributions add ("sum"), or stand side by side ("root" of
            the sum of squares).
        exact: whether outputs are copies of inputs or of their absolute values, so that nothing is
            rounded and 0 goes to 0.
        affine: whether the operation is an affine map of its inputs.
        partial: whether it has a bound only as a part of what a pass knows by another name.
        helper: a function of plain torch that `source` calls, for the files that hold it.
        kind: the key of the operation in programs and files.
    """

    proof: ClassVar[str] = ""
    combine: ClassVar[Literal["sum", "root"]] = "sum"
    exact: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    partial: ClassVar[bool] = False
    helper: ClassVar[str] = ""
    kind: str = ""
    target: type[nn.Module] | None = None

    def follows(self, module: nn.Module) -> bool:
        """Whether a call of a registered module is its forward's functions, not one operation."""
        return False

    def operator(self, site: Site) -> AbstractOperator | None:
        """The linear part, on one slice of the input; None where the operation has none."""
        return None

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """The linear part as a convolution that can be composed with others, where it is one.

        Args:
            site: of an operation of one input.
            last: whether channels are the last axis of a sample, and all others are places; else
                they are the first, and the others those of an image.
        """
        operator = None if last else self.operator(site)
        return ComputedKernel.of(operator) if isinstance(operator, ConvOperator) else None

    def curvatures(self, site: Site) -> tuple[float, float] | None:
        """Bounds of the second derivative of an elementwise function; None if unknown."""
        return None

    def gains(self, site: Site) -> tuple[Gain, ...]:
        """Lipschitz constant in each input; a `NormBound` if it has its own proof."""
        raise UnprovenError("it has no proven bound")

    def rounding(self, site: Site) -> Rounding:
        """Bound of the rounding error of the computed operation."""
        operator = self.operator(site)
        if operator is not None:
            return operator_rounding(operator, site)
        if self.exact:
            return EXACT
        raise UnprovenError(
            f"{site.node.type or self.kind} has no proven rounding error; with a proof, state "
            "`rounding` in its op, or certify in real arithmetic"
        )

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Run the operation on batches, in their precision, as the certified program does."""
        return _module_in(site, self.target, x[0].dtype)(*x)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Write the operation as ONNX nodes, of which the last computes `site.node.name`."""
        raise ValueError("it has no form in ONNX")

    def parts(self, site: Site) -> tuple[Node, ...]:
        """The simpler operations of which this one consists; none by default.

        They are what runs, and what files hold, of which a pass makes the operation again.
        """
        return ()

    def source(self, site: Site, *x: str) -> str:
        """The operation as an expression of plain torch."""
        raise ValueError("it has no form in plain torch")

    def bounds(self, site: Site) -> tuple[NormBound, ...]:
        """The gains with their proofs."""
        operator = self.operator(site)
        if operator is not None:
            return (operator.norm_bound(),)
        pairs = [
            g if isinstance(g, NormBound) else NormBound(g, self.proof) for g in self.gains(site)
        ]
        wrong = [pair.value for pair in pairs if not pair.value >= 0]
        if wrong:
            raise UnprovenError(f"its rule gave {wrong[0]}")
        return tuple(pairs)


def like(tensor: Tensor, x: Tensor) -> Tensor:
    """A tensor of a program in the precision of a value."""
    return tensor if tensor.dtype == x.dtype else tensor.to(x.dtype)


# The tables of facts.

KINDS: dict[str, AbstractOp] = {}
"""Operations by their kind."""

MODULES: dict[type[nn.Module], AbstractOp] = {}
"""Operations that are modules of exactly these types."""

CAPTURES: dict[Any, Callable[..., Any]] = {}
"""What a call of a function of torch is in a program: functions of a `Call` and its arguments."""

READS: dict[str, Callable[..., Any]] = {}
"""What a node of ONNX is, as a function of torch."""

_FORWARDS: dict[type[nn.Module], Any] = {}
_NAMESPACES = (torch, F, Tensor, torch._C._nn, torch._C._linalg, torch.special)  # pyright: ignore[reportAttributeAccessIssue]


def op(*targets: str | type[nn.Module]) -> Callable[[type[_T]], type[_T]]:
    """Register an operation under a kind, or for exactly a type of module.

    Args:
        targets: kinds, for operations that functions of torch are captured as; or types of modules,
            whose subclasses stay unknown. A model that calls such a module has one node for it.

    Returns:
        A decorator for a subclass of :class:`AbstractOp`.

    Raises:
        TypeError: if a target is neither.
    """
    for target in targets:
        if not isinstance(target, str) and not (
            isinstance(target, type) and issubclass(target, nn.Module)
        ):
            raise TypeError(f"`targets` must be kinds or types of modules; got {target!r}.")

    def add(kind: type[_T]) -> type[_T]:
        for target in targets:
            operation = kind()
            if isinstance(target, str):
                operation.kind = target
                KINDS[target] = operation
            else:
                _register_module(target, operation)
        return kind

    return add


def _register_module(target: type[nn.Module], operation: AbstractOp) -> None:
    """A class from elsewhere never goes by a name of taut."""
    ours = target.__module__.partition(".")[0] == "taut"
    operation.kind = target.__name__ if ours else f"custom.{target.__name__}"
    operation.target = target
    MODULES[target], _FORWARDS[target] = operation, target.forward
    if ours:
        KINDS[operation.kind] = operation
    if "__call__" not in vars(target) or not hasattr(vars(target)["__call__"], "_taut_boundary"):
        setattr(target, "__call__", _boundary(target))  # noqa: B010


recording = threading.local()
"""The recorder that is at work in this thread, as `recording.recorder`."""


def _boundary(target: type[nn.Module]) -> Callable[..., Any]:
    """A `__call__` that a recorder sees as one step; without a recorder it is the plain one."""
    plain = vars(target).get("__call__")

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = nn.Module.__call__ if plain is None else plain
        if torch.compiler.is_compiling() or type(self) not in MODULES:
            return forward(self, *args, **kwargs)
        recorder = getattr(recording, "recorder", None)
        if recorder is None:
            return forward(self, *args, **kwargs)
        return recorder.module(self, functools.partial(forward, self), args, kwargs)

    call._taut_boundary = True  # pyright: ignore[reportFunctionMemberAccess]
    return call


def op_of(module: nn.Module, name: str) -> AbstractOp:
    """The operation of a module of a registered type."""
    kind = type(module)
    where = f"`{name}` ({kind.__name__})"
    if kind.forward is not _FORWARDS[kind]:
        raise UnprovenError(f"{where} has a replaced forward.")
    for attribute, value in vars(module).items():
        if callable(value) and callable(getattr(kind, attribute, None)):
            raise UnprovenError(f"{where} has a replaced {attribute}.")
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnprovenError(f"{where} has forward hooks, which may change its output.")
    return MODULES[kind]


def captures(
    *names: str, kind: str = "", fallback: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register how calls of torch functions appear in a program.

    Args:
        names: as torch, torch.nn.functional and Tensor have them; the variants that write in place
            ("relu_") count, too.
        kind: passed to the function, for tables of functions that differ by their kind alone.
        fallback: whether what is said elsewhere of a function counts instead.

    Returns:
        A decorator for a function of a `Call` and the arguments of the function of torch; it adds
        nodes and returns the name of the value, or a tuple of names.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        capture = functools.partial(function, kind=kind) if kind else function
        for name in names:
            for target in _functions(name):
                if not (fallback and target in CAPTURES):
                    CAPTURES[target] = capture
        return function

    return add


def reads(kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the torch function of an ONNX node, given its inputs and its attributes by name.

    Reading a file is recording the model that these functions make. Constants that are whole
    numbers come as lists.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        READS[kind] = function
        return function

    return add


def integers(value: Any) -> list[Any]:
    """A list of whole numbers among the inputs of a node of ONNX."""
    if not isinstance(value, list):
        raise ValueError("it needs whole numbers that are constants")
    return value


def _functions(name: str) -> Iterable[Any]:
    """All functions of torch of a name, its variants in place, and its name in `torch.ops.aten`."""
    for space in _NAMESPACES:
        for variant in (name, f"{name}_"):
            found = inspect.getattr_static(space, variant, None)
            if isinstance(found, property) or inspect.isgetsetdescriptor(found):
                yield found.__get__
            elif callable(getattr(space, variant, None)):
                yield getattr(space, variant)
    yield f"aten::{name}"
    yield f"aten::{name}_"


def _module_in(site: Site, target: type[nn.Module] | None, dtype: torch.dtype) -> nn.Module:
    """The module of a node in a precision: a copy, or made from its arguments and tensors."""
    if site.module is not None:
        return (
            copy.deepcopy(site.module).to(dtype).eval()
            if _has_numbers(site.module)
            else site.module
        )
    if target is None:
        raise UnprovenError(f"`{site.node.name}` cannot be run without the model; pass it")
    args = {key: tuple(v) if isinstance(v, list) else v for key, v in site.args.items()}
    named = inspect.signature(target).parameters
    module = target(**args, **{role: t for role, t in site.tensors.items() if role in named}).eval()
    for role, tensor in site.tensors.items():
        kept = tensor.to(dtype) if tensor.is_floating_point() else tensor
        parameter = isinstance(getattr(module, role), nn.Parameter)
        setattr(module, role, nn.Parameter(kept, False) if parameter else kept)
    return module


def _has_numbers(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def constructor_arguments(module: nn.Module) -> Mapping[str, Any]:
    """The arguments of the constructor that a module keeps under their names."""
    names = inspect.signature(type(module)).parameters
    kept = vars(module)
    return {name: kept[name] for name in names if name in kept}
