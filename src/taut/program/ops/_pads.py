"""Operations that put entries around or between the others: pads and upsampling."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_product, up_root
from taut.program._call import Call
from taut.program._op import EXACT, Rounding, captures, integers, op, reads
from taut.program._program import Shape, Site
from taut.program._result import UnprovenError
from taut.program.ops._selections import AbstractSelection, copied_norm, sliced


@op("pad")
class Pad(AbstractSelection):
    """Numbers around a sample: a value, or copies of its entries; `left`, `right` by its axes."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Pad."""
        args = site.args
        if args["mode"] == "constant":
            return F.pad(x[0], self._sides(site), value=args["value"])
        return F.pad(x[0], self._sides(site), args["mode"])

    def _sides(self, site: Site) -> list[int]:
        """As `F.pad` takes them: the last axis first; copies go around the axes of an image."""
        args, sides = site.args, []
        for left, right in zip(args["left"][::-1], args["right"][::-1], strict=True):
            sides += [left, right]
        if args["mode"] != "constant":
            return sides[: max(2, 2 * (len(site.shape) - 1))]
        while sides[-2:] == [0, 0]:
            del sides[-2:]
        return sides

    def rounding(self, site: Site) -> Rounding:
        """The value is rounded to the precision of the signal."""
        value = site.args["value"]
        if value == 0:
            return EXACT
        constant = up_product(abs(value), up_root(float(math.prod(site.shape))))
        return Rounding(1, 1.0, constant)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A pad."""
        args = site.args
        mode = {"replicate": "edge", "circular": "wrap"}.get(args["mode"], args["mode"])
        pads = e.integers("pads", [0, *args["left"], 0, *args["right"]])
        value = [e.number("value", args["value"])] if args["value"] else []
        e.node("Pad", [*x, pads, *value], mode=mode)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args = site.args
        value = f", value={args['value']!r}" if args["value"] else ""
        mode = "" if args["mode"] == "constant" else f", {args['mode']!r}"
        return f"F.pad({x[0]}, {tuple(self._sides(site))}{mode}{value})"


@op("upsample")
class Upsample(AbstractSelection):
    """Each entry of an image copied to the places nearest to it."""

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """Each axis alone, where float32 can count; it rounds to other places than float64."""
        size = site.shapes[0][1:]
        most = math.prod(self._most(site, size, axis) for axis in range(len(size)))
        return (copied_norm(most),)

    def _most(self, site: Site, size: Shape, axis: int) -> int:
        places = torch.arange(size[axis]).reshape(-1, *[1] * (len(size) - axis - 1))
        places = places.expand(1, 1, *size)
        lines = []
        for dtype in (torch.float32, torch.float64):
            copied = self.run(site, places.to(dtype)).movedim(axis + 2, 0).flatten(1)
            lines.append(copied[:, 0].long())
        return max(int(line.bincount().max()) for line in lines)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Interpolate."""
        args = site.args
        return F.interpolate(x[0], args["size"], args["scale_factor"], args["mode"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """As torch rounds places: down."""
        if site.args["mode"] != "nearest" or site.args["scale_factor"] is None:
            raise ValueError("it must be nearest, by factors")
        scales = e.numbers("scales", [1.0, 1.0, *site.args["scale_factor"]])
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
        e.node("Resize", [*x, "", scales], nearest_mode="floor", **options)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args = site.args
        return f"F.interpolate({x[0]}, {args['size']}, {args['scale_factor']}, {args['mode']!r})"


# What calls of torch are.


@captures("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d",
          "replication_pad2d", "_pad_circular")  # fmt: skip
def pad(c: Call, input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> str:
    """Pads along the last axes; what is negative cuts off."""
    if c.function == "constant_pad_nd" and not isinstance(mode, str):
        mode, value = "constant", mode
    named = {"reflection": "reflect", "replication": "replicate"}.get(c.function.partition("_")[0])
    mode = "circular" if c.function == "_pad_circular" else named or mode
    axes = input.dim() - 1
    left, right = list(pad[::2])[::-1], list(pad[1::2])[::-1]
    if len(left) > axes:
        raise UnprovenError("it mixes samples of the batch")
    left, right = [0] * (axes - len(left)) + left, [0] * (axes - len(right)) + right
    name = c.name(input)
    for axis in range(axes):
        size = c.shape(name)[axis]
        name = sliced(c, name, axis, max(0, -left[axis]), size - max(0, -right[axis]))
    left, right = [max(0, n) for n in left], [max(0, n) for n in right]
    if not any(left + right):
        return name
    if not isinstance(value, int | float | None) or not math.isfinite(value or 0):
        raise UnprovenError("its value must be a finite number")
    args = {"mode": mode, "left": left, "right": right, "value": float(value or 0)}
    return c.add("pad", [name], args=args)


@reads("Pad")
def _onnx_pad(
    x: Tensor, pads: Any, value: Any = None, axes: Any = None, *, mode: str = "constant"
) -> Tensor:
    sides, named = integers(pads), {"wrap": "circular", "edge": "replicate"}.get(mode, mode)
    if axes is not None or len(sides) != 2 * x.dim() or sides[0] or sides[x.dim()]:
        raise ValueError("it must pad all axes but the batch")
    pairs = [
        n for axis in reversed(range(1, x.dim())) for n in (sides[axis], sides[x.dim() + axis])
    ]
    if named == "constant":
        return F.pad(x, pairs, value=value or 0.0)
    if any(pairs[2 * (x.dim() - 2) :]):
        raise ValueError("it must pad the axes of an image only")
    return F.pad(x, pairs[: 2 * (x.dim() - 2)], named)


@reads("Resize")
def _resize(x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None, *,
            mode: str = "nearest", coordinate_transformation_mode: str = "half_pixel",
            nearest_mode: str = "round_prefer_floor") -> Tensor:  # fmt: skip
    if (mode, coordinate_transformation_mode, nearest_mode) != ("nearest", "asymmetric", "floor"):
        raise ValueError("it must take the nearest entry, as torch does")
    if scales is None or sizes is not None or scales[:2].tolist() != [1.0, 1.0]:
        raise ValueError("it must have factors for the axes of an image")
    return F.interpolate(x, scale_factor=tuple(scales[2:].tolist()))
