"""Operations that put entries around or between the others: pads and upsampling."""

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.operator import NormBound
from taut.linalg.padding import Padding
from taut.linalg.rounding import up_product, up_root
from taut.program._call import Call
from taut.program._op import EXACT, Rounding, captures, integers, op, reads
from taut.program._program import Shape, Site
from taut.program._result import UnprovenError
from taut.program.ops._image_padding import padded
from taut.program.ops._numbers import axis_of, checked_sizes, open_batch
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
        places = torch.arange(size[axis], device="cpu").reshape(-1, *[1] * (len(size) - axis - 1))
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
def pad(c: Call, input: Tensor, pad: Any, mode: Any = "constant", value: Any = None) -> str:
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
    if axes is not None:
        along, given = [axis_of(axis, x.dim()) for axis in integers(axes)], sides
        if len(given) != 2 * len(along) or len(set(along)) != len(along):
            raise ValueError("it must have two pads for each of its axes")
        sides = [0] * (2 * x.dim())
        for place, axis in enumerate(along):
            sides[axis], sides[x.dim() + axis] = given[place], given[len(along) + place]
    if len(sides) != 2 * x.dim() or sides[0] or sides[x.dim()]:
        raise ValueError("it must pad all axes but the batch")
    checked_sizes([max(0, n + a + b) for n, a, b in zip(
        x.shape[1:], sides[1 : x.dim()], sides[x.dim() + 1 :], strict=True)])  # fmt: skip
    pairs = [
        n for axis in reversed(range(1, x.dim())) for n in (sides[axis], sides[x.dim() + axis])
    ]
    if named == "constant":
        return F.pad(x, pairs, value=value or 0.0)
    if any(pairs[2 * (x.dim() - 2) :]):
        raise ValueError("it must pad the axes of an image only")
    left, right = sides[2 : x.dim()], sides[x.dim() + 2 :]
    if named == "circular" and min(left + right) >= 0:  # may go round more than once
        return padded(x, Padding(named, tuple(left), tuple(right)))
    return F.pad(x, pairs[: 2 * (x.dim() - 2)], named)


@reads("Resize")
def _resize(x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None, *,
            antialias: int = 0, axes: Any = None, coordinate_transformation_mode: str =
            "half_pixel", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
            extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch",
            mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
            batch: int | None) -> Tensor:  # fmt: skip
    """By factors or to sizes of the axes of an image; coordinates as torch has them."""
    spatial, places = x.dim() - 2, coordinate_transformation_mode
    if antialias or exclude_outside or cubic_coeff_a != -0.75 or spatial not in (1, 2, 3):
        raise ValueError("it must interpolate 1 to 3 axes, as torch does")
    if keep_aspect_ratio_policy != "stretch":
        raise ValueError("`keep_aspect_ratio_policy` must be stretch")
    kept = None if sizes is None or axes is not None else open_batch(x, sizes, batch)
    if kept is not None and kept[:2] != list(x.shape[:2]):
        raise ValueError("it must keep the batch and the channels")
    wanted = _of_image(sizes, axes, spatial)
    factors = None if wanted else _of_image(_listed(scales), axes, spatial, 1.0)
    if wanted is None and factors is None:
        raise ValueError("it must have factors or sizes for the axes of an image")
    options: dict[str, Any] = {"size": wanted, "scale_factor": factors}
    checked_sizes(wanted or [int(n * f) for n, f in zip(x.shape[2:], factors or (), strict=True)])
    if mode == "nearest":
        return _nearest(x, options, places, nearest_mode)
    corners = {"align_corners": True, "half_pixel": False, "pytorch_half_pixel": False}
    words = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear",
             ("cubic", 2): "bicubic"}  # fmt: skip
    if places not in corners or (mode, spatial) not in words:
        raise ValueError(f"its coordinates, {places}, must be those of torch")
    y = F.interpolate(x, **options, mode=words[mode, spatial], align_corners=corners[places])
    if any(m == 1 < n for n, m in zip(x.shape[2:], y.shape[2:], strict=True)):
        raise ValueError("it must leave more than one entry of an axis")
    return y


def _listed(scales: Any) -> list[float] | None:
    """Factors as numbers; none where the list is empty."""
    values = [] if scales is None else torch.as_tensor(scales, device="cpu").flatten().tolist()
    return values or None


def _of_image(values: Any, axes: Any, spatial: int, kept: Any = None) -> tuple[Any, ...] | None:
    """What stands for the axes of an image; batch and channels must be kept, if they are named."""
    if values is None:
        return None
    named = list(range(spatial + 2)) if axes is None else [axis_of(a, spatial + 2) for a in axes]
    by_axis = dict(zip(named, values, strict=True))
    others = [by_axis[axis] for axis in (0, 1) if axis in by_axis]
    named_all = set(range(2, spatial + 2)) <= by_axis.keys()
    if (
        not named_all
        or (kept is not None and any(other != kept for other in others))
        or (axes is not None and kept is None and others)
    ):
        raise ValueError("it must resize the axes of an image, all of them and no others")
    return tuple(by_axis[axis] for axis in range(2, spatial + 2))


def _nearest(x: Tensor, options: dict[str, Any], places: str, rounding: str) -> Tensor:
    """By the ways of torch where they choose the same entries, else by a list of places."""
    sizes = options["size"] or [
        math.floor(n * Fraction(f))
        for n, f in zip(x.shape[2:], options["scale_factor"], strict=True)
    ]
    chosen = []
    for axis, (n, m) in enumerate(zip(x.shape[2:], sizes, strict=True)):
        scale = Fraction(m, n) if options["size"] else Fraction(options["scale_factor"][axis])
        chosen.append([_place(i, n, m, scale, places, rounding) for i in range(m)])
    for mode in ("nearest", "nearest-exact"):
        if all(_torch_places(n, options, axis, mode) == chosen[axis]
               for axis, n in enumerate(x.shape[2:])):  # fmt: skip
            return F.interpolate(x, **options, mode=mode)
    for axis, line in enumerate(chosen, start=2):
        x = x.index_select(axis, torch.tensor(line, device="cpu"))
    return x


def _torch_places(n: int, options: dict[str, Any], axis: int, mode: str) -> list[int]:
    """The entries, of n, that torch copies along an axis."""
    own: dict[str, Any] = {}
    for key, value in options.items():
        own[key] = None if value is None else value[axis]
    line = torch.arange(n, dtype=torch.float32, device="cpu")[None, None]
    return F.interpolate(line, **own, mode=mode).flatten().long().tolist()


def _place(i: int, n: int, m: int, scale: Fraction, places: str, rounding: str) -> int:
    """The entry, of n, that is copied to place i of m."""
    half = Fraction(1, 2)
    formulas = {
        "asymmetric": lambda: i / scale,
        "half_pixel": lambda: (i + half) / scale - half,
        "pytorch_half_pixel": lambda: (i + half) / scale - half if m > 1 else Fraction(0),
        "align_corners": lambda: Fraction(i * (n - 1), m - 1) if m > 1 else Fraction(0),
    }
    roundings = {
        "floor": math.floor, "ceil": math.ceil,
        "round_prefer_floor": lambda at: math.ceil(at - half),
        "round_prefer_ceil": lambda at: math.floor(at + half),
    }  # fmt: skip
    if places not in formulas or rounding not in roundings:
        raise ValueError(f"its places, {places} and {rounding}, are not read")
    return min(max(roundings[rounding](formulas[places]()), 0), n - 1)
