"""Operations that copy entries to places that do not depend on the values: parts and copies."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_root
from taut.program._batch import BatchSize
from taut.program._call import Call
from taut.program._op import AbstractOp, captures, integers, op, reads
from taut.program._program import Shape, Site
from taut.program._result import UnprovenError
from taut.program.ops._numbers import as_tensor, axis_of, checked_sizes, open_batch
from taut.program.ops._shapes import Turned, reshaped

__all__ = ["AbstractSelection", "copied_norm", "copies", "sliced"]


def copies(function: Callable[[Tensor], Tensor], shape: Shape) -> int:
    """Largest number of times that a selection copies one entry, by pushing the entries' numbers.

    Its norm is the root. Values below the first number are constants that were put in.
    """
    first, entries = 1 << 40, math.prod(shape)
    numbers = torch.arange(first, first + entries, dtype=torch.float64, device="cpu").reshape(
        1, *shape
    )
    result = function(numbers).flatten()
    places = result[result >= first].long() - first
    return int(places.bincount().max()) if len(places) else 0


def copied_norm(most: int) -> NormBound:
    proof = "permutation or restriction" if most <= 1 else f"copies an entry up to {most} times"
    return NormBound(up_root(float(most)), proof)


class AbstractSelection(AbstractOp):
    """Copies entries of a sample; its norm is the root of how often the most copied one comes."""

    exact = True
    affine = True

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """By pushing the numbers of the entries."""
        return (copied_norm(copies(lambda x: self.run(site, x), site.shapes[0])),)

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """A choice of channels as a matrix of 0 and 1."""
        axis, shape = len(site.shape) - 1 if last else 0, site.shapes[0]
        if self.kind not in ("slice", "take") or site.args["axis"] != axis:
            return None
        numbers = torch.arange(shape[axis], device="cpu").reshape([-1 if i == axis + 1 else 1
                                                     for i in range(len(shape) + 1)])  # fmt: skip
        places = self.run(site, numbers).flatten()
        matrix = torch.eye(shape[axis], dtype=torch.float64, device="cpu")[places]
        return ComputedKernel.matrix(matrix, () if last else shape[1:])


@op("slice")
class Slice(AbstractSelection):
    """Entries `start`, `start + step`, ... before `stop` of one axis of a sample."""

    proof = "restriction"

    def gains(self, site: Site) -> tuple[float, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A part of the entries."""
        return (1.0,)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Slice."""
        args = site.args
        index = [slice(None)] * (args["axis"] + 1)
        return x[0][(*index, slice(args["start"], args["stop"], args["step"]))]

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A slice."""
        args = site.args
        ends = [e.integers(key, [args[key]]) for key in ("start", "stop")]
        axis, step = e.integers("axis", [args["axis"] + 1]), e.integers("step", [args["step"]])
        e.node("Slice", [*x, *ends, axis, step])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args = site.args
        part = f"{args['start']}:{args['stop']}" + (f":{args['step']}" if args["step"] > 1 else "")
        return f"{x[0]}[{':, ' * (args['axis'] + 1)}{part}]"


@op("take")
class Take(AbstractSelection):
    """Entries of one axis of a sample by a list of places, which is the tensor `index`."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Select."""
        return x[0].index_select(site.args["axis"] + 1, site.tensors["index"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A gather."""
        e.node("Gather", [*x, *e.held(site, "index")], axis=site.args["axis"] + 1)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"{x[0]}.index_select({site.args['axis'] + 1}, self.{site.node.name}_index)"


@op("repeat")
class Repeat(AbstractSelection):
    """A sample side by side with itself, so many times along each axis."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Repeat."""
        return x[0].repeat(1, *site.args["repeats"])


@op("unfold")
class Unfold(AbstractSelection):
    """Windows of an image as columns."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Unfold."""
        args = site.args
        return F.unfold(
            x[0], args["kernel_size"], args["dilation"], args["padding"], args["stride"]
        )


@op("windows")
class Windows(AbstractSelection):
    """Windows along one axis, each in a new last axis."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Cut."""
        return x[0].unfold(site.args["axis"] + 1, site.args["size"], site.args["step"])


def sliced(c: Call, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
    """A part of one axis; the value itself where that is all."""
    size = c.shape(x)[axis]
    count = len(range(start, stop, step))
    if (start, count) == (0, size):
        return x
    if count == 0:
        raise UnprovenError("its output is empty")
    shape = (*c.shape(x)[:axis], count, *c.shape(x)[axis + 1 :])
    args = {"axis": axis, "start": start, "stop": stop, "step": step}
    return c.add("slice", [x], shape, args)


def _sample_axis(dim: int, dims: int) -> int:
    if dim % dims == 0:
        raise UnprovenError("it does not keep the batch in dimension 0")
    return dim % dims - 1


@captures("narrow")
def narrow(c: Call, x: Tensor, dim: int, start: int, length: int) -> str:
    """A part of one axis."""
    axis = _sample_axis(dim, x.dim())
    start = int(start) % x.shape[dim]
    return sliced(c, c.name(x), axis, start, start + length)


@captures("select")
def select(c: Call, x: Tensor, dim: int, index: int) -> str:
    """One entry of an axis, without the axis."""
    axis = _sample_axis(dim, x.dim())
    index = index % x.shape[dim]
    part = sliced(c, c.name(x), axis, index, index + 1)
    return reshaped(c, part, tuple(c.result.shape[1:]))


@captures("slice")
def slice_(
    c: Call, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> str:
    """A part of one axis, as torch.export has it."""
    if dim % x.dim() == 0:
        return getitem(c, x, slice(start, end, step))
    index = slice(start, end, step).indices(x.shape[dim])
    return sliced(c, c.name(x), dim % x.dim() - 1, *index)


@captures(
    "chunk", "split", "tensor_split", "unbind", "unsafe_chunk", "unsafe_split", "split_with_sizes"
)
def parts(c: Call, x: Tensor, *args: Any, dim: int | None = None, **kwargs: Any) -> tuple[str, ...]:
    """Parts of one axis, one after the other; `unbind` drops the axis."""
    single = c.function == "unbind"
    place = 0 if single else 1
    along: int = dim if dim is not None else args[place] if len(args) > place else 0
    axis, start, names = _sample_axis(along, x.dim()), 0, []
    for part in c.result:
        size = 1 if single else part.shape[along]
        name = sliced(c, c.name(x), axis, start, start + size)
        names.append(reshaped(c, name, tuple(part.shape[1:])))
        start += size
    return tuple(names)


@captures("__getitem__")
def getitem(c: Call, x: Tensor, index: Any) -> str:
    """Slices, numbers, new axes, and one list of places."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(entry is Ellipsis for entry in entries):
        place = next(i for i, entry in enumerate(entries) if entry is Ellipsis)
        used = sum(entry is not None and entry is not Ellipsis for entry in entries)
        entries[place : place + 1] = [slice(None)] * (x.dim() - used)
    if not entries or not isinstance(entries[0], slice) or not _whole(entries[0]):
        raise UnprovenError("it does not keep the batch in dimension 0")
    name, axis, lists = c.name(x), 0, 0
    for entry in entries[1:]:
        if entry is None:
            continue
        size = x.shape[axis + 1]
        if isinstance(entry, slice):
            name = sliced(c, name, axis, *entry.indices(size))
        elif isinstance(entry, int) and not isinstance(entry, bool):
            name = sliced(c, name, axis, entry % size, entry % size + 1)
        else:
            lists += 1
            name = _taken(c, name, axis, entry, size)
        axis += 1
    if lists > 1 or (lists and any(isinstance(e, int) for e in entries)):
        raise UnprovenError("it may take places from one list at most")
    return reshaped(c, name, tuple(c.result.shape[1:]))


def _whole(part: slice) -> bool:
    """Whether a slice of the batch is all of it, whatever its size."""
    stop = part.stop is None or isinstance(part.stop, BatchSize) or part.stop >= 2**62
    return part.start in (None, 0) and stop and part.step in (None, 1)


def _taken(c: Call, x: str, axis: int, places: Any, size: int) -> str:
    if isinstance(places, Tensor):
        original = c.constant(places)
        index = original
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
    else:
        original = index = torch.as_tensor(places)
    if index.dim() != 1 or index.is_floating_point():
        raise UnprovenError("its places must be a list of whole numbers")
    wrapped = index % size
    index = (
        original
        if bool(torch.equal(wrapped, original)) and original.dtype == torch.int64
        else wrapped.long()
    )
    shape = (*c.shape(x)[:axis], len(index), *c.shape(x)[axis + 1 :])
    return c.add("take", [x], shape, {"axis": axis}, {"index": index})


@captures("index_select")
def index_select(c: Call, x: Tensor, dim: int, index: Tensor) -> str:
    """Entries of one axis by a list of places."""
    return _taken(c, c.name(x), _sample_axis(dim, x.dim()), index, x.shape[dim])


@captures("expand", "expand_as", "broadcast_to")
def expand(c: Call, x: Tensor, *sizes: Any, **kwargs: Any) -> str:
    """Copies along axes of length 1, and along new ones in front of the sample's."""
    first = sizes[0] if sizes else kwargs["size"]
    wanted = first if isinstance(first, tuple | list) else sizes
    free = isinstance(first, Tensor) or isinstance(wanted[0], BatchSize) or wanted[0] == -1
    if c.result.dim() != x.dim() or not free:
        raise UnprovenError("it broadcasts over the batch dimension")
    shape = tuple(c.result.shape[1:])
    return _repeated(c, c.name(x), tuple(n // m for n, m in zip(shape, x.shape[1:], strict=True)))


@captures("repeat", "tile")
def repeat(c: Call, x: Tensor, *sizes: Any, **kwargs: Any) -> str:
    """A sample side by side with itself."""
    first = sizes[0] if sizes else next(iter(kwargs.values()))
    counts = tuple(first) if isinstance(first, tuple | list) else sizes
    counts = (1,) * (x.dim() - len(counts)) + tuple(counts)
    if len(counts) != x.dim() or counts[0] != 1 or c.result.shape[0] != x.shape[0]:
        raise UnprovenError("it does not keep the batch in dimension 0")
    return _repeated(c, c.name(x), counts[1:])


def _repeated(c: Call, x: str, counts: tuple[int, ...]) -> str:
    if all(count == 1 for count in counts):
        return x
    return c.add("repeat", [x], args={"repeats": list(counts)})


@captures("unfold", "im2col")
def unfold(c: Call, x: Tensor, *args: Any, **kwargs: Any) -> str:
    """Windows: of an image as columns (a function), or of one axis (a method)."""
    if x.dim() == 4 and c.result.dim() == 3:
        values = dict(zip(("kernel_size", "dilation", "padding", "stride"), args, strict=False))
        values = {"dilation": 1, "padding": 0, "stride": 1} | values | kwargs
        return c.add("unfold", [c.name(x)], args=values)
    values = dict(zip(("dimension", "size", "step"), args, strict=False)) | kwargs
    axis = _sample_axis(values["dimension"], x.dim())
    return c.add(
        "windows", [c.name(x)], args={"axis": axis, "size": values["size"], "step": values["step"]}
    )


# What nodes of ONNX are, as functions of torch.


@reads("Slice")
def _onnx_slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    begin = integers(starts)
    end = [2**63 - 1 if type(n) is int and n >= 2**31 - 1 else n for n in integers(ends)]
    along = list(range(len(begin))) if axes is None else integers(axes)
    strides = [1] * len(begin) if steps is None else integers(steps)
    if not isinstance(x, Tensor) and along in ([0], [-1]):  # a shape
        return x[begin[0] : end[0] : strides[0]]
    if set(strides) == {-1} and all(
        b == -1 and e <= -(2**62) for b, e in zip(begin, end, strict=True)
    ):
        return x.flip(along)
    index = [slice(None)] * x.dim()
    for axis, *part in zip(along, begin, end, strides, strict=True):
        if part[2] < 1:
            raise ValueError("its steps must be 1 or more, or go through all entries backwards")
        index[axis] = slice(*part)
    return x[tuple(index)]


@reads("Gather")
def _gather(x: Any, indices: Any, *, axis: int = 0) -> Any:
    if isinstance(x, Turned):
        return Turned(_gather(x.x, indices, axis=x.order[axis]), x.order)
    if not isinstance(x, Tensor) and axis in (0, -1):  # a shape
        return [x[i] for i in indices] if isinstance(indices, list) else x[indices]
    if isinstance(indices, int):
        return x.select(axis, indices)
    axis = axis_of(axis, x.dim())
    size = x.shape[axis]
    places = torch.as_tensor(indices)
    if places.is_floating_point() or not bool(((places >= -size) & (places < size)).all()):
        raise ValueError("its places must be whole numbers within the axis")
    taken = x.index_select(axis, torch.where(places < 0, places + size, places).flatten())
    return taken if places.dim() == 1 else taken.unflatten(axis, places.shape)


@reads("GatherND")
def _gather_entries(x: Any, indices: Any, *, batch_dims: int = 0) -> Any:
    if batch_dims or not isinstance(indices, Tensor) or indices.shape[1:] != (1,):
        raise ValueError("it must gather along its first axis")
    return _gather(x, indices.flatten().tolist())


@reads("Split")
def _split(
    x: Any, sizes: Any = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> tuple[Any, ...]:
    if isinstance(x, list):  # a shape, entry by entry
        if axis not in (0, -1) or outputs != len(x) or sizes not in (None, [1] * outputs):
            raise ValueError("it must split a list of whole numbers into its entries")
        return tuple([number] for number in x)
    if sizes is None:
        if num_outputs not in (None, outputs):
            raise ValueError("it has another number of outputs than it states")
        parts = x.split(-(-x.shape[axis] // outputs), axis)
    else:
        parts = x.split(integers(sizes), axis)
    if len(parts) != outputs:
        raise ValueError("its numbers of outputs and parts differ")
    return parts


@reads("Expand")
def _expanded(x: Any, shape: Any, *, moving: list[bool], batch: int | None) -> Tensor:
    """Both may have axes of length 1: they are broadcast against one another."""
    x, sizes = as_tensor(x), integers(shape)
    if not moving[0]:
        sizes = checked_sizes(sizes)
    sizes = [1] * (x.dim() - len(sizes)) + open_batch(x, sizes, batch)
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    kept = [n if type(s) is int and s == 1 else s for s, n in zip(sizes, own, strict=True)]
    return x.expand(kept)


@reads("Tile")
def _tiled(x: Any, repeats: Any) -> Tensor:
    x = as_tensor(x)
    checked_sizes([n * m for n, m in zip(x.shape[1:], integers(repeats)[1:], strict=True)])
    return x.repeat(repeats)
