"""Operations that rearrange numbers without copying or losing any, and those that do nothing."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.program._batch import BatchSize
from taut.program._call import Call
from taut.program._op import AbstractOp, captures, integers, op, reads
from taut.program._program import Shape, Site
from taut.program._result import UnprovenError
from taut.program.ops._numbers import as_tensor, axis_of, open_batch

__all__ = ["Turned", "permuted", "reshaped"]


class AbstractPermutation(AbstractOp):
    """Moves entries of each sample to places of their own."""

    proof = "permutation"
    exact = True
    affine = True

    def gains(self, site: Site) -> tuple[float, ...]:
        """Norms stay."""
        return (1.0,)


@op("reshape")
class Reshape(AbstractPermutation):
    """The entries of a sample in their order, in another shape."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Reshape; the last axes that stay may have any size, in files that leave it open."""
        first, last = _split(site)
        return x[0].reshape(x[0].shape[0], *first, *x[0].shape[x[0].dim() - last :])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Flatten keeps the size of the image open, and so does reading it."""
        first, last = _split(site)
        if len(site.shape) == 1:
            e.node("Flatten", x, axis=1)
        elif e.any_size and last:
            parts = [e.integers("first", [0, *first]), e.node("Shape", x, "last", start=-last)]
            e.node("Reshape", [*x, e.node("Concat", parts, "shape", axis=0)])
        else:
            e.node("Reshape", [*x, e.integers("shape", [0, *site.shape])])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        if len(site.shape) == 1:
            return f"{x[0]}.flatten(1)"
        return f"{x[0]}.reshape({x[0]}.shape[0], {', '.join(map(str, site.shape))})"


def _split(site: Site) -> tuple[Shape, int]:
    """The sizes of the first axes, and how many of the last ones stay as they are."""
    pairs = zip(site.shapes[0][::-1], site.shape[::-1], strict=False)
    last = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return site.shape[: len(site.shape) - last], last


@op("permute")
class Permute(AbstractPermutation):
    """The axes of a sample in another order; `axes` counts those of a sample from 0."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Permute."""
        return x[0].permute(0, *(axis + 1 for axis in site.args["axes"]))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A transposition."""
        e.node("Transpose", x, perm=[0, *(axis + 1 for axis in site.args["axes"])])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        axes = ", ".join(str(axis + 1) for axis in site.args["axes"])
        return f"{x[0]}.permute(0, {axes})"


@op("flip")
class Flip(AbstractPermutation):
    """Axes of a sample back to front."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Flip."""
        return x[0].flip([axis + 1 for axis in site.args["axes"]])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A slice from the last entry to the first."""
        axes = [axis + 1 for axis in site.args["axes"]]
        values = {"start": -1, "stop": -(2**63) + 1, "axis": 0, "step": -1}
        ends = {key: [value] * len(axes) for key, value in values.items()} | {"axis": axes}
        e.node("Slice", [*x, *(e.integers(key, value) for key, value in ends.items())])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"{x[0]}.flip({[axis + 1 for axis in site.args['axes']]})"


@op("roll")
class Roll(AbstractPermutation):
    """One axis of a sample moved round."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Roll."""
        return x[0].roll(site.args["shift"], site.args["axis"] + 1)


@op("pixel_unshuffle")
class PixelUnshuffle(AbstractPermutation):
    """Blocks of pixels into channels."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Rearrange."""
        return F.pixel_unshuffle(x[0], site.args["factor"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Blocks, then channels in torch's order."""
        factor, channels = site.args["factor"], site.shapes[0][0]
        blocks = e.node("SpaceToDepth", x, "blocks", blocksize=factor)
        order = (
            torch.arange(channels * factor**2, device="cpu")
            .reshape(factor**2, channels)
            .T.flatten()
        )
        e.node("Gather", [blocks, e.integers("order", order.tolist())], axis=1)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"F.pixel_unshuffle({x[0]}, {site.args['factor']})"


@op("pixel_shuffle")
class PixelShuffle(AbstractPermutation):
    """Channels into blocks of pixels."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Rearrange."""
        return F.pixel_shuffle(x[0], site.args["factor"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """ONNX has torch's order of channels as a mode."""
        e.node("DepthToSpace", x, blocksize=site.args["factor"], mode="CRD")

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"F.pixel_shuffle({x[0]}, {site.args['factor']})"


# What calls of torch are. The batch stays in dimension 0.


def reshaped(c: Call, x: str, shape: Shape) -> str:
    """A value in another shape of a sample; the value itself where that is the shape it has."""
    return x if c.shape(x) == shape else c.add("reshape", [x], shape)


def permuted(c: Call, x: str, axes: Sequence[int]) -> str:
    """A value with the axes of a sample in another order."""
    if list(axes) == list(range(len(axes))):
        return x
    shape = tuple(c.shape(x)[axis] for axis in axes)
    return c.add("permute", [x], shape, {"axes": list(axes)})


def _axis(dim: Any, dims: int) -> int:
    """An axis of the sample, of a dimension of the tensor."""
    if not -dims <= dim < dims or dim % dims == 0:
        raise UnprovenError("it mixes samples of the batch")
    return dim % dims - 1


@captures("contiguous", "clone", "detach", "alias", "data", "float", "double", "half", "bfloat16",
          "to", "type_as", "requires_grad_", "lift_fresh", "_to_copy", "positive", "cpu",
          "cuda")  # fmt: skip
def same(c: Call, x: Tensor, *args: Any, **kwargs: Any) -> str:
    """The same numbers; another precision would round them."""
    if c.result.dtype != x.dtype:
        raise UnprovenError("its result has another precision, which rounds")
    return c.name(x)


@captures(
    "reshape",
    "view",
    "view_as",
    "reshape_as",
    "_unsafe_view",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "flatten",
)
def reshape(c: Call, x: Tensor, *args: Any, **kwargs: Any) -> str:
    """A new shape of each sample, if the batch keeps its place whatever its size."""
    if any(isinstance(arg, torch.dtype) for arg in (*args, *kwargs.values())):
        raise UnprovenError("it reads the bits of the signal as another type")
    shape = tuple(c.result.shape[1:])
    whole = math.prod(shape) == math.prod(x.shape[1:]) and c.result.shape[:1] == x.shape[:1]
    if not whole:
        raise UnprovenError("it does not keep the batch in dimension 0")
    if c.function in ("reshape", "view", "_unsafe_view"):
        sizes = args[0] if args and isinstance(args[0], tuple | list) else args
        sizes = sizes or kwargs.get("size", kwargs.get("shape", ()))
        if not (isinstance(sizes[0], BatchSize) or sizes[0] == -1):
            raise UnprovenError(
                "it fixes the size of the batch, which must take batches of any size"
            )
    return reshaped(c, c.name(x), shape)


@captures("permute")
def permute(c: Call, x: Tensor, *dims: Any) -> str:
    """Axes in another order."""
    order = dims[0] if isinstance(dims[0], tuple | list) else dims
    if order[0] % x.dim():
        raise UnprovenError("it mixes samples of the batch")
    return permuted(c, c.name(x), [_axis(dim, x.dim()) for dim in order[1:]])


@captures("transpose", "swapaxes", "swapdims")
def transpose(c: Call, x: Tensor, dim0: int, dim1: int) -> str:
    """Two axes swapped."""
    axes = list(range(x.dim() - 1))
    i, j = _axis(dim0, x.dim()), _axis(dim1, x.dim())
    axes[i], axes[j] = axes[j], axes[i]
    return permuted(c, c.name(x), axes)


@captures("mT")
def transposed_matrices(c: Call, x: Tensor, *_: Any) -> str:
    """The last two axes swapped."""
    return transpose(c, x, -2, -1)


@captures("movedim", "moveaxis")
def movedim(c: Call, x: Tensor, source: Any, destination: Any) -> str:
    """Axes moved to other places; the order is read off a tensor that names its axes."""
    marks = torch.empty([dim + 2 for dim in range(x.dim())], device="meta")
    order = [size - 2 for size in torch.movedim(marks, source, destination).shape]
    return permute(c, x, order)


@captures("flip")
def flip(c: Call, x: Tensor, *dims: Any) -> str:
    """Axes back to front."""
    chosen = dims[0] if isinstance(dims[0], tuple | list) else dims
    return c.add("flip", [c.name(x)], args={"axes": [_axis(dim, x.dim()) for dim in chosen]})


@captures("roll")
def roll(c: Call, x: Tensor, shifts: Any, dims: Any = ()) -> str:
    """Axes moved round, one after the other."""
    moves = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    if len(moves) != len(axes):
        raise UnprovenError("it must roll along axes of its own, not the whole batch")
    name = c.name(x)
    for shift, dim in zip(moves, axes, strict=True):
        axis = _axis(dim, x.dim())
        if not isinstance(shift, int):
            raise UnprovenError("its shifts must be numbers")
        name = c.add("roll", [name], args={"axis": axis, "shift": shift})
    return name


@captures("pixel_unshuffle")
def pixel_unshuffle(c: Call, x: Tensor, downscale_factor: int) -> str:
    """Blocks of pixels into channels."""
    return c.add("pixel_unshuffle", [c.name(x)], args={"factor": downscale_factor})


@captures("pixel_shuffle")
def pixel_shuffle(c: Call, x: Tensor, upscale_factor: int) -> str:
    """Channels into blocks of pixels."""
    return c.add("pixel_shuffle", [c.name(x)], args={"factor": upscale_factor})


@captures("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(c: Call, x: Tensor, groups: int) -> str:
    """Channels of groups in turns."""
    channels, *rest = x.shape[1:]
    name = reshaped(c, c.name(x), (groups, channels // groups, *rest))
    name = permuted(c, name, [1, 0, *range(2, len(rest) + 2)])
    return reshaped(c, name, (channels, *rest))


@captures(
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_dropout",
    "feature_alpha_dropout",
    "native_dropout",
)
def dropout(
    c: Call,
    input: Tensor,
    p: Any = 0.5,
    training: bool = True,
    inplace: bool = False,
    train: bool | None = None,
) -> str:
    """Nothing in evaluation."""
    if training if train is None else train:
        raise UnprovenError("dropout in training is random; call model.eval() first")
    return c.name(input)


# What nodes of ONNX are, as functions of torch.

reads("Identity")(lambda x: x)


@reads("Dropout")
def _dropped(x: Tensor, ratio: Any = None, training: Any = None, *, seed: int = 0) -> Tensor:
    return F.dropout(x, training=bool(training))


@reads("Flatten")
def _flattened(x: Tensor, *, axis: int = 1) -> Tensor:
    if axis_of(axis, x.dim()) != 1:
        raise ValueError("it must flatten all but the batch")
    return x.flatten(1)


@reads("Reshape")
def _reshaped(x: Any, shape: Any, *, allowzero: int = 0, batch: int | None) -> Any:
    sizes = integers(shape)
    whole = [x] if isinstance(x, int | BatchSize) else x
    if isinstance(whole, list) and sizes in ([-1], [len(whole)]):
        return whole  # it may hold the size of the batch
    x = as_tensor(x)
    copied = [x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(sizes)]
    return x.reshape(open_batch(x, copied, batch))


@final
@dataclass(frozen=True)
class Turned:
    """The signal with its axes in an order that moves the batch, as exporters gather from it.

    It is only turned on, and gathered from: until the batch is first again.
    """

    x: Tensor
    order: list[int]


@reads("Transpose")
def _transposed(
    x: Tensor | Turned, *, perm: list[int] | None = None, moving: list[bool]
) -> Tensor | Turned:
    known = x if isinstance(x, Turned) else Turned(x, list(range(x.dim())))
    order = known.order[::-1] if perm is None else [known.order[axis] for axis in perm]
    return Turned(known.x, order) if moving[0] and order[0] else known.x.permute(order)


@reads("Squeeze")
def _squeezed(x: Any, axes: Any = None) -> Any:
    if isinstance(x, list):
        (number,) = x
        return number
    if any(x.shape[axis] != 1 for axis in integers(axes)):
        raise ValueError("its axes must have one entry")
    return x.squeeze(tuple(axes))


@reads("Unsqueeze")
def _unsqueezed(x: Any, axes: Any) -> Any:
    if isinstance(x, int | BatchSize) and axes in ([0], [-1]):
        return [x]
    x = as_tensor(x)
    for axis in sorted(axis_of(a, x.dim() + len(axes)) for a in integers(axes)):
        x = x.unsqueeze(axis)
    return x


@reads("SpaceToDepth")
def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Torch puts the blocks of a channel side by side, ONNX the channels of a block."""
    order = torch.arange(x.shape[1] * blocksize**2, device="cpu").view(x.shape[1], -1).T.flatten()
    return F.pixel_unshuffle(x, blocksize).index_select(1, order)


@reads("DepthToSpace")
def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "DCR":
        order = torch.arange(x.shape[1], device="cpu").reshape(blocksize**2, -1).T.flatten()
        x = x.index_select(1, order)
    return F.pixel_shuffle(x, blocksize)
