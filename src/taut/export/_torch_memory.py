"""Steps of compiled programs that torch's functions do not follow for a batch of another size.

Compilers write circular pads part by part into memory that held nothing, and put the batch of the
file and the rows of a sample into one axis before they multiply by a matrix. Both are followed
exactly: which entry of a sample each place holds, and how many rows a sample has.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.program._batch import BatchSize
from taut.program.ops._numbers import checked_sizes

__all__ = ["Memory", "Rows", "run_step"]

_aten: Any = torch.ops.aten


@final
@dataclass(frozen=True)
class Memory:
    """Entries of samples at places of their own.

    Attributes:
        source: the samples; None where nothing was written yet.
        places: of the shape of a sample, the number of an entry of `source`; -1 where none is.
    """

    source: Tensor | None
    places: Tensor

    @classmethod
    def of(cls, value: "Tensor | Memory") -> "Memory":
        """A tensor as memory that holds it."""
        if isinstance(value, Memory):
            return value
        return cls(
            value, torch.arange(math.prod(value.shape[1:]), device="cpu").reshape(value.shape[1:])
        )

    def value(self) -> Tensor:
        """The tensor that it holds, axis by axis where its places are chosen so."""
        if self.source is None or bool((self.places < 0).any()):
            raise ValueError("it reads memory that nothing was written to")
        x, shape = self.source, tuple(self.source.shape[1:])
        lists = _by_axis(self.places, shape)
        if lists is None:
            taken = x.flatten(1).index_select(1, self.places.flatten())
            return taken.unflatten(1, tuple(self.places.shape))
        for axis, (places, size) in enumerate(zip(lists, shape, strict=True)):
            if not torch.equal(places, torch.arange(size, device="cpu")):
                x = x.index_select(axis + 1, places)
        return x


def _by_axis(places: Tensor, shape: tuple[int, ...]) -> list[Tensor] | None:
    """A list of places for each axis that together give all places; None where there is none."""
    if places.dim() != len(shape):
        return None
    index = torch.unravel_index(places, shape)
    lists = []
    for axis, along in enumerate(index):
        flat = along.movedim(axis, 0).flatten(1)
        if not bool((flat == flat[:, :1]).all()):
            return None
        lists.append(flat[:, 0].clone())
    return lists


@final
@dataclass(frozen=True)
class Rows:
    """A tensor whose first axis is the batch and an axis of the sample in one.

    Attributes:
        x: with these two apart, (batch, rows, ...).
    """

    x: Tensor


def run_step(function: Any, args: list[Any], kwargs: dict[str, Any], batch: int | None) -> Any:
    """One step of a program, of tensors or of what stands for them here."""
    if function in _WRITES and any(isinstance(value, Memory) for value in args):
        return _WRITES[function](*args, **kwargs)
    args = [arg.value() if isinstance(arg, Memory) else arg for arg in args]
    if function == _aten.empty.memory_format:
        if batch is None or not args[0][1:] or args[0][0] != batch:
            raise ValueError("its memory must be that of the samples")
        return Memory(None, torch.full(checked_sizes(args[0][1:]), -1, device="cpu"))
    if function == _aten.reshape.default:
        return _reshaped(args[0], args[1], batch)
    if not any(isinstance(arg, Rows) for arg in args):
        return function(*args, **kwargs)
    if function in _PRODUCTS and not kwargs:
        return Rows(_PRODUCTS[function](*[a.x if isinstance(a, Rows) else a for a in args]))
    if function._opname.removesuffix("_") in _ENTRIES and _are_apart(args):
        return Rows(function(*[a.x if isinstance(a, Rows) else a for a in args], **kwargs))
    raise ValueError("it does not keep the batch in dimension 0")


_ENTRIES = {
    "relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu", "hardtanh", "clamp", "abs",
    "neg", "add", "sub", "mul", "div", "erf", "clone", "dropout", "softplus", "hardswish",
}  # fmt: skip
"""Functions of each entry alone, which may be given one list for the last axis."""


def _are_apart(args: list[Any]) -> bool:
    return all(arg.dim() <= 1 for arg in args if isinstance(arg, Tensor))


def _reshaped(x: Tensor | Rows, sizes: list[Any], batch: int | None) -> Any:
    """A new shape; where its first axis holds rows of several samples, they are kept apart."""
    whole = x.x if isinstance(x, Rows) else x
    first, *rest = sizes
    if isinstance(first, BatchSize):
        rows = first // whole.shape[0]
    elif batch is not None and type(first) is int and first > 0 and first % batch == 0:
        rows = first // batch
    else:
        return x.reshape(sizes) if isinstance(x, Tensor) else _refuse()
    whole_rest = math.prod(rest) if all(type(n) is int and n > 0 for n in rest) else 0
    entries = math.prod(whole.shape[1:])
    if rows == 1 and isinstance(x, Rows):
        return whole.reshape(whole.shape[0], *rest)
    if rows == 1 or rows * whole_rest != entries:
        return x.reshape(sizes) if isinstance(x, Tensor) else _refuse()
    return Rows(whole.reshape(whole.shape[0], rows, *rest))


def _refuse() -> Any:
    raise ValueError("it does not keep the batch in dimension 0")


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.matmul(x, matrix)


def _product_and_bias(bias: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    return F.linear(x, matrix.t(), bias)


_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    _aten.mm.default: _product,
    _aten.matmul.default: _product,
    _aten.addmm.default: _product_and_bias,
    _aten.linear.default: F.linear,
}


def _part(dim: int, start: Any, end: Any, step: int, axes: int) -> tuple[slice, ...]:
    dim = dim % (axes + 1)
    if not dim:
        raise ValueError("it takes a part of the batch")
    stop = None if end is None or end >= 2**62 else end
    return (*[slice(None)] * (dim - 1), slice(start, stop, step))


def _sliced(x: Memory, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Memory:
    return Memory(x.source, x.places[_part(dim, start, end, step, x.places.dim())])


def _copied(x: Any, other: Any, non_blocking: bool = False) -> Any:
    """What is copied, for what was there."""
    shape = other.places.shape if isinstance(other, Memory) else other.shape[1:]
    if not isinstance(x, Memory) or shape != x.places.shape:
        raise ValueError("it must copy as many entries as there are places")
    return other


def _written(
    x: Any, other: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Memory:
    """Memory of which a part was written over."""
    below, above = Memory.of(x), Memory.of(other)
    if above.source is None:
        raise ValueError("it reads memory that nothing was written to")
    if below.source is not None and below.source is not above.source:
        raise ValueError("it writes entries of two values into one piece of memory")
    places = below.places.clone()
    places[_part(dim, start, end, step, places.dim())] = above.places
    return Memory(above.source, places)


_WRITES: dict[Any, Callable[..., Any]] = {
    _aten.slice.Tensor: _sliced,
    _aten.copy.default: _copied,
    _aten.slice_scatter.default: _written,
}
