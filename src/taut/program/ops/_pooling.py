"""Pools: averages, which are convolutions, and maxima."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.convolution import ConvOperator
from taut.linalg.operator import NormBound
from taut.linalg.padding import Padding
from taut.linalg.rounding import up, up_product, up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, op, reads
from taut.program._program import Shape, Site
from taut.program._result import UnprovenError
from taut.program.ops._image_padding import torch_pads
from taut.program.ops._linear import check_steps
from taut.program.ops._windows import Pads, sides_of

__all__: list[str] = []

_AVERAGES: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_ADAPTIVE: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
_MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_ADAPTIVE_MAXIMA: tuple[Any, ...] = (
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
)
_SCALED = 1 + 2.0**-40
"""Covers the float64 rounding of the few operations that scale the kernel."""


@op("avg_pool")
class AveragePool(AbstractOp):
    """Sums over windows, divided by a number: on each channel a convolution with equal taps."""

    affine = True

    def operator(self, site: Site) -> ConvOperator:
        """Taps of a modulus not below the exact one.

        Absolute values are a bound: the norm of a matrix whose entries have one sign grows with
        each of them.
        """
        args, channels = site.args, site.shapes[0][0]
        entry = math.copysign(up(Fraction(1, abs(args["divisor"]))), args["divisor"])
        kernel = torch.full(
            (channels, 1, *args["kernel_size"]), entry, dtype=torch.float64, device="cpu"
        )
        pads = tuple(args["padding"])
        padding = Padding("zeros", pads, pads)
        return ConvOperator(
            kernel, site.shapes[0][1:], tuple(args["stride"]), (), channels, padding
        )

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """Its taps are rounded once."""
        return None if last else replace(ComputedKernel.of(self.operator(site)), roundings=1)

    def rounding(self, site: Site) -> Rounding:
        """A sum, which may overflow before it is divided; the weights are rounded once."""
        one = self.operator(_one_channel(site))
        divisor = max(1.0, float(abs(site.args["divisor"])))
        absolute = up_product(one.abs_norm_bound(), divisor, _SCALED)
        return Rounding(math.prod(site.args["kernel_size"]) + 2, absolute)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Average."""
        args = site.args
        if args["whole"]:
            return _ADAPTIVE[len(site.shape) - 2](x[0], 1)
        function, sizes = _AVERAGES[len(site.shape) - 2], (args["kernel_size"], args["stride"])
        if args["divisor"] == math.prod(args["kernel_size"]):
            return function(x[0], *sizes, args["padding"])
        options = {"divisor_override": args["divisor"]}  # of two or three axes
        return function(x[0], *sizes, args["padding"], **options)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A pool over everything keeps the size of the image open."""
        args = site.args
        if args["divisor"] != math.prod(args["kernel_size"]):
            raise ValueError("its divisor must be the size of its window")
        if args["whole"]:
            e.node("GlobalAveragePool", x)
            return
        options = {"kernel_shape": args["kernel_size"], "strides": args["stride"]}
        pads = [*args["padding"], *args["padding"]]
        e.node("AveragePool", x, pads=pads, count_include_pad=1, **options)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args, axes = site.args, len(site.shape) - 1
        if args["whole"]:
            return f"F.adaptive_avg_pool{axes}d({x[0]}, 1)"
        if args["divisor"] != math.prod(args["kernel_size"]):
            raise ValueError("its divisor must be the size of its window")
        sizes = ", ".join(str(tuple(args[key])) for key in ("kernel_size", "stride", "padding"))
        return f"F.avg_pool{axes}d({x[0]}, {sizes})"


@op("max_pool")
class MaxPool(AbstractOp):
    """Maxima over windows."""

    exact = True

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        r"""An output moves at most as far as the farthest entry of its window.

        So the squared distance is at most that of the inputs times the largest number of windows
        that share an entry. Window j covers s j + d t, t < k: on each axis those t are one residue
        class modulo s / gcd(s, d), at most ceil(k gcd(s, d) / s) of them.
        """
        args = site.args
        axes = zip(args["kernel_size"], args["stride"], args["dilation"], strict=True)
        shares = math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in axes)
        if shares == 1:
            return (NormBound(1.0, "maxima over windows that do not overlap"),)
        return (
            NormBound(up_root(float(shares)), f"maxima; up to {shares} windows share an entry"),
        )

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Pool."""
        args = site.args
        sizes = [args[key] for key in ("kernel_size", "stride", "padding", "dilation")]
        return _MAXIMA[len(site.shape) - 2](x[0], *sizes, ceil_mode=args["ceil_mode"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A pool."""
        args = site.args
        options = {
            "kernel_shape": args["kernel_size"],
            "strides": args["stride"],
            "dilations": args["dilation"],
        }
        pads, ceil = [*args["padding"], *args["padding"]], int(args["ceil_mode"])
        e.node("MaxPool", x, pads=pads, ceil_mode=ceil, **options)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args, axes = site.args, len(site.shape) - 1
        sizes = ", ".join(
            str(tuple(args[k])) for k in ("kernel_size", "stride", "padding", "dilation")
        )
        return f"F.max_pool{axes}d({x[0]}, {sizes}, {args['ceil_mode']})"


@op("adaptive_max_pool")
class AdaptiveMaxPool(AbstractOp):
    """Maxima over windows of several sizes, which overlap where they must."""

    exact = True

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """As of other maxima; windows of an axis overlap as those of its averages do."""
        shares = 1
        for n, outputs in zip(site.shapes[0][1:], site.shape[1:], strict=True):
            windows = (
                F.adaptive_avg_pool1d(torch.eye(n, dtype=torch.float64, device="cpu"), outputs) > 0
            )
            shares *= int(windows.sum(1).max())
        return (
            NormBound(up_root(float(shares)), f"maxima; up to {shares} windows share an entry"),
        )

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Pool."""
        return _ADAPTIVE_MAXIMA[len(site.shape) - 2](x[0], tuple(site.shape[1:]))

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"F.adaptive_max_pool{len(site.shape) - 1}d({x[0]}, {tuple(site.shape[1:])})"


def _one_channel(site: Site) -> Site:
    return Site(site.node, ((1, *site.shapes[0][1:]),), {})


def _axes(c: Call, x: Tensor) -> int:
    """Spatial axes of a pool; without channels torch would take the batch for them."""
    axes = (
        int(c.function.rstrip("d_")[-1]) if c.function.rstrip("d_")[-1].isdigit() else x.dim() - 2
    )
    if x.dim() != axes + 2:
        raise UnprovenError(
            f"its input must be (batch, channels, {axes} axes); got {tuple(x.shape)}"
        )
    return axes


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


@captures("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average(c: Call, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
            ceil_mode: bool = False, count_include_pad: bool = True,
            divisor_override: int | None = None) -> str:  # fmt: skip
    """Averages over windows, which all have their full size if none goes over the border."""
    axes = _axes(c, input)
    kernel, pads = _per_axis(kernel_size, axes), _per_axis(padding, axes)
    steps = kernel if stride in (None, (), []) else _per_axis(stride, axes)
    fits = zip(input.shape[2:], pads, kernel, steps, strict=True)
    ceil_mode = ceil_mode and any((n + 2 * p - k) % s for n, p, k, s in fits)
    if ceil_mode or (any(pads) and not count_include_pad):
        args = {
            "kernel_size": kernel, "stride": steps, "padding": pads, "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad, "divisor": divisor_override, "adaptive": False,
        }  # fmt: skip
        return c.add("average", [c.name(input)], args=args)
    return _averaged(c, input, kernel, steps, pads, divisor_override or math.prod(kernel))


def _averaged(
    c: Call,
    x: Tensor,
    kernel: Shape,
    stride: Shape,
    pads: Shape,
    divisor: int,
    *,
    whole: bool = False,
) -> str:
    check_steps(stride, x.shape[2:], pads, pads)
    args = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": pads,
        "divisor": divisor,
        "whole": whole,
    }
    return c.add("avg_pool", [c.name(x)], args=args)


@captures("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
          "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")  # fmt: skip
def adaptive_average(c: Call, input: Tensor, output_size: Any) -> str:
    """Averages over windows of one size, where that divides the input."""
    kernel = _adaptive(c, input)
    if kernel is None:
        return c.add("average", [c.name(input)], args={"adaptive": True, "divisor": None})
    whole = all(n == 1 for n in c.result.shape[2:])
    return _averaged(c, input, kernel, kernel, (0,) * len(kernel), math.prod(kernel), whole=whole)


def _adaptive(c: Call, x: Tensor) -> Shape | None:
    """The one size of the windows of an adaptive pool, if they have one."""
    _axes(c, x)
    size, outputs = tuple(x.shape[2:]), tuple(c.result.shape[2:])
    if any(n % o for o, n in zip(outputs, size, strict=True)):
        return None
    return tuple(n // o for o, n in zip(outputs, size, strict=True))


@captures("max_pool1d", "max_pool2d", "max_pool3d")
def maximum(c: Call, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
            dilation: Any = 1, ceil_mode: bool = False,
            return_indices: bool = False) -> str:  # fmt: skip
    """Maxima over windows."""
    if return_indices or not isinstance(c.result, Tensor):
        raise UnprovenError("`return_indices` must be False")
    return _maxima(c, input, kernel_size, stride, padding, dilation, ceil_mode)


@captures("max_pool2d_with_indices", "max_pool3d_with_indices")
def maximum_of(c: Call, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
               dilation: Any = 1, ceil_mode: bool = False,
               return_indices: bool = True) -> tuple[str, None]:  # fmt: skip
    """Maxima, and places that no rule follows."""
    one = Call(c.recorder, c.result[0], c.function)
    return _maxima(one, input, kernel_size, stride, padding, dilation, ceil_mode), None


def _maxima(c: Call, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
            ceil_mode: bool) -> str:  # fmt: skip
    axes = _axes(c, input)
    steps = kernel_size if stride in (None, (), []) else stride
    values = {"kernel_size": kernel_size, "stride": steps, "padding": padding, "dilation": dilation}
    args = {name: _per_axis(value, axes) for name, value in values.items()}
    return c.add("max_pool", [c.name(input)], args=args | {"ceil_mode": ceil_mode})


@captures("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_maximum(c: Call, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over windows, of one size and side by side where that divides the input."""
    if return_indices:
        raise UnprovenError("`return_indices` must be False")
    if not isinstance(c.result, Tensor):  # compilers always take the places, too
        return adaptive_maximum(Call(c.recorder, c.result[0], c.function), input, output_size), None
    kernel = _adaptive(c, input)
    if kernel is None:
        return c.add("adaptive_max_pool", [c.name(input)])
    ones = (1,) * len(kernel)
    args = {
        "kernel_size": kernel,
        "stride": kernel,
        "padding": (0,) * len(kernel),
        "dilation": ones,
    }
    return c.add("max_pool", [c.name(input)], args=args | {"ceil_mode": False})


# What nodes of ONNX are, as functions of torch.


def _windows(x: Tensor, kernel: list[int], steps: list[int], gaps: list[int], pads: Any,
             auto_pad: str, ceil_mode: int) -> tuple[Pads, list[int]]:  # fmt: skip
    """Pads of both sides, and the number of windows along each axis."""
    axes, sizes = len(kernel), x.shape[2:]
    if axes not in (1, 2, 3) or x.dim() != axes + 2:
        raise ValueError("it must have 1 to 3 axes, as its input")
    windows = [d * (k - 1) + 1 for k, d in zip(kernel, gaps, strict=True)]
    left, right = sides_of(pads, x, windows, steps, auto_pad)
    counts = []
    for n, k, s, a, b in zip(sizes, windows, steps, left, right, strict=True):
        rest = n + a + b - k
        counts.append((-(-rest // s) if ceil_mode else rest // s) + 1)
        if counts[-1] < 1 or (counts[-1] - 1) * s >= n + a:
            raise ValueError("each of its windows must begin in the image or in front of it")
    return (left, right), counts


@reads("AveragePool")
def _average_pool(x: Tensor, *, auto_pad: str = "NOTSET", ceil_mode: int = 0,
                  count_include_pad: int = 0, dilations: Any = None, kernel_shape: Any,
                  pads: Any = None, strides: Any = None) -> Tensor:  # fmt: skip
    steps, ones = strides or [1] * len(kernel_shape), [1] * len(kernel_shape)
    (left, right), _ = _windows(x, kernel_shape, steps, ones, pads, auto_pad, ceil_mode)
    if set(dilations or [1]) != {1} or (ceil_mode and any(left + right)):
        raise ValueError("it must have no dilation, nor pads with ceil_mode")
    if left != right:
        if not count_include_pad:
            raise ValueError("it must pad both sides alike, or count what it pads")
        x, left = F.pad(x, torch_pads(left, right)), [0] * len(left)
    counted = bool(count_include_pad) or not any(left)
    return _AVERAGES[len(steps) - 1](
        x, kernel_shape, steps, left, ceil_mode=bool(ceil_mode), count_include_pad=counted
    )


@reads("MaxPool")
def _max_pool(x: Tensor, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None,
              kernel_shape: Any, pads: Any = None, storage_order: int = 0,
              strides: Any = None) -> Tensor:  # fmt: skip
    """Windows that reach over the end need no pads there: torch has them by `ceil_mode`."""
    steps, gaps = strides or [1] * len(kernel_shape), dilations or [1] * len(kernel_shape)
    (left, right), counts = _windows(x, kernel_shape, steps, gaps, pads, auto_pad, ceil_mode)
    ceil = bool(ceil_mode) or left != right
    y = _MAXIMA[len(steps) - 1](x, kernel_shape, steps, left, gaps, ceil_mode=ceil)
    for axis, (n, m) in enumerate(zip(y.shape[2:], counts, strict=True), start=2):
        if n < m:
            raise ValueError("its windows must not lie behind the image")
        y = y.narrow(axis, 0, m) if n > m else y
    return y


reads("GlobalAveragePool")(lambda x: _ADAPTIVE[x.dim() - 3](x, 1))
reads("GlobalMaxPool")(lambda x: _ADAPTIVE_MAXIMA[x.dim() - 3](x, 1))
