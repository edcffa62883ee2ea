"""Arithmetic of shapes and constants in ONNX files: no operations of a program, readers only.

Numbers and lists of whole numbers are shapes, and may hold the size of the batch; all else goes to
functions of torch, which refuse the signal where they have no rule.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from taut.program._batch import BatchSize
from taut.program._op import READS, integers, reads
from taut.program._program import LARGEST

__all__ = [
    "as_tensor",
    "axis_of",
    "checked_sizes",
    "elementwise",
    "open_batch",
    "quotient",
    "read_all",
]

DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64,
}  # fmt: skip
"""Types of numbers by their code in ONNX."""

Numbers = Callable[..., Any]


def open_batch(x: Tensor, sizes: Sequence[Any], batch: int | None) -> list[Any]:
    """New sizes of the signal; that of the batch for which a file was written is that of any."""
    if batch is not None and sizes and type(sizes[0]) is int and sizes[0] == batch:
        return [x.shape[0], *sizes[1:]]
    return list(sizes)


def as_tensor(value: Any) -> Tensor:
    """A number or a list of whole numbers as a tensor of its own kind."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(
        value, dtype=torch.float32 if isinstance(value, float) else None, device="cpu"
    )


def axis_of(axis: int, dims: int) -> int:
    """An axis counted from the front; one that is none is refused."""
    if not -dims <= axis < dims:
        raise ValueError(f"it has an axis {axis} of {dims}")
    return axis % dims


def elementwise(function: Numbers, numbers: Numbers | None = None) -> Numbers:
    """A function of tensors that is one of numbers, too, and of lists of them, one by one."""
    plain = numbers or function

    def read(*values: Any) -> Any:
        if any(isinstance(value, Tensor) for value in values):
            _check_kinds(values)
            return function(*(as_tensor(v) if isinstance(v, list) else v for v in values))
        lengths = {len(value) for value in values if isinstance(value, list)}
        if not lengths:
            return plain(*values)
        if len(lengths - {1}) > 1:
            raise ValueError("its lists have different lengths")
        size = max(lengths - {1}, default=1)
        rows = [v * size if len(v) == 1 else v for v in (_listed(value) for value in values)]
        return [plain(*row) for row in zip(*rows, strict=True)]

    return read


def _check_kinds(values: Sequence[Any]) -> None:
    """Nodes of ONNX never mix real and whole numbers, but functions of torch do."""
    real = any(isinstance(v, Tensor) and v.is_floating_point() for v in values)
    if real and any(isinstance(v, int | list) for v in values):
        raise ValueError("its inputs are both real and whole numbers")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def read_all(function: Numbers, numbers: Numbers | None = None) -> Numbers:
    """A function of two values as one of any number of them, from the left."""
    pair = elementwise(function, numbers)
    return lambda *values: functools.reduce(pair, values)


def quotient(a: Any, b: Any) -> Any:
    """A quotient; of whole numbers without a rest, as shapes are divided."""
    if isinstance(a, int | BatchSize) and isinstance(b, int | BatchSize):
        if isinstance(a, int) and isinstance(b, int) and (a < 0 or b <= 0):
            raise ValueError("it must divide whole numbers by positive ones")
        return a // b
    if (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and not (a.is_floating_point() or b.is_floating_point())
    ):
        return torch.div(a, b, rounding_mode="trunc")
    return a / b


def _chosen(condition: Any, a: Any, b: Any) -> Any:
    """Entries of `a` where the condition holds; of the signal as torch has it: without a rule."""
    if isinstance(condition, Tensor) or isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.where(*(as_tensor(value) for value in (condition, a, b)))
    return elementwise(lambda c, x, y: x if c else y)(condition, a, b)


reads("Where")(lambda condition, a, b: _chosen(condition, a, b))
for _name, _function in {
    "Equal": operator.eq, "Less": operator.lt, "LessOrEqual": operator.le,
    "Greater": operator.gt, "GreaterOrEqual": operator.ge,
    "And": operator.and_, "Or": operator.or_, "Xor": operator.xor,
}.items():  # fmt: skip
    READS[_name] = elementwise(_function)
reads("Not")(elementwise(torch.logical_not, lambda a: not a))
for _name, _function, _numbers in (
    ("Sqrt", torch.sqrt, math.sqrt), ("Exp", torch.exp, math.exp), ("Log", torch.log, math.log),
    ("Floor", torch.floor, math.floor), ("Ceil", torch.ceil, math.ceil),
    ("Reciprocal", lambda x: 1 / x, lambda x: 1 / x), ("Pow", torch.pow, math.pow),
):  # fmt: skip
    READS[_name] = elementwise(_function, _numbers)


@reads("Cast")
def _cast(x: Any, *, to: int, saturate: int = 1) -> Any:
    """Of the signal only where it changes nothing: another precision rounds."""
    if to not in DTYPES:
        raise ValueError(f"it makes numbers of the kind {to}, which is not read")
    kind = DTYPES[to]
    if isinstance(x, Tensor):
        return x.to(kind)
    if kind.is_floating_point:
        return torch.tensor(x, dtype=kind, device="cpu")
    convert = bool if kind == torch.bool else lambda n: n if isinstance(n, BatchSize) else int(n)
    return elementwise(convert)(x)


@reads("CastLike")
def _cast_like(x: Any, like: Any, *, saturate: int = 1) -> Any:
    kind = like.dtype if isinstance(like, Tensor) else as_tensor(like).dtype
    return _cast(x, to=next(code for code, dtype in DTYPES.items() if dtype == kind))


@reads("ConstantOfShape")
def _constant_of_shape(shape: Any, *, value: Any = None) -> Tensor:
    number = 0.0 if value is None else value
    if isinstance(number, Tensor | list):
        (number,) = as_tensor(number).flatten().tolist()
    return torch.full(checked_sizes(integers(shape)), number, device="cpu")


def checked_sizes(sizes: Sequence[Any]) -> list[Any]:
    """The sizes of a constant that a file makes: not more than a program may have."""
    whole = [n for n in sizes if not isinstance(n, BatchSize)]
    if any(n < 0 for n in whole) or math.prod(whole) > LARGEST:
        raise ValueError(f"it makes a constant of the sizes {whole}; at most {LARGEST} numbers")
    return list(sizes)


@reads("Range")
def _range(start: Any, limit: Any, delta: Any) -> Any:
    if not all(isinstance(n, int) for n in (start, limit, delta)) or not delta:
        raise ValueError("it must count in whole numbers")
    places = range(start, limit, delta)
    checked_sizes([len(places)])
    return list(places)


@reads("Shape")
def _shape_of(x: Any, *, start: int = 0, end: int | None = None) -> list[Any]:
    sizes = list(x.shape) if isinstance(x, Tensor) else [len(x)] if isinstance(x, list) else []
    return sizes[start:end]


@reads("Size")
def _size_of(x: Any) -> Any:
    return x.numel() if isinstance(x, Tensor) else len(_listed(x))


@reads("Mod")
def _modulo(a: Any, b: Any, *, fmod: int = 0) -> Any:
    if fmod or isinstance(a, Tensor) or isinstance(b, Tensor):
        raise ValueError("it must be of whole numbers")
    return elementwise(operator.mod)(a, b)


@reads("ReduceProd")
def _product(x: Any, *_: Any, keepdims: int = 1, axes: Any = None) -> Any:
    if not isinstance(x, list):
        raise ValueError("it must be of whole numbers")
    product = functools.reduce(operator.mul, x, 1)
    return [product] if keepdims else product
