r"""Linear maps that do to each axis of an image what a matrix does: averages and interpolation.

Such a map is the Kronecker product of the matrices of its axes, and the identity on channels: its
norm is the product of theirs.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.matrix import MatrixOperator
from taut.linalg.operator import NormBound
from taut.linalg.rounding import U32, U64, up_divide, up_product, up_root, up_sum
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, op
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._pooling import _ADAPTIVE, _AVERAGES

__all__: list[str] = []

_ROUNDED = 1 + 2.0**-50
"""Covers the float64 rounding of an entry that is one over a whole number."""


class AbstractSeparable(AbstractOp):
    """A Kronecker product of the matrices of the axes of an image."""

    affine = True

    @abstractmethod
    def axis_norm(self, site: Site, axis: int) -> float:
        """Bound of the norm of the matrix of one spatial axis, counted from 0."""

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The product over the axes."""
        norms = [self.axis_norm(site, axis) for axis in range(len(site.shape) - 1)]
        value = up_product(*norms, self.factor(site))
        return (NormBound(value, "product of the spectral norms of its axes"),)

    def factor(self, site: Site) -> float:
        """A factor of the whole."""
        return 1.0


@op("average")
class Average(AbstractSeparable):
    """Means over windows whose sizes differ: at the border, or as `adaptive` pools have them.

    Windows are boxes. A mean divides by the number of entries of its window, which is a product
    over the axes; or, with `divisor`, all sums by one number.
    """

    def axis_norm(self, site: Site, axis: int) -> float:
        """Entries of a mean are rounded up: the norm of a matrix >= 0 grows with each of them."""
        matrix = self._axis_matrix(site, axis) * _ROUNDED
        if site.args["divisor"] is not None:
            matrix = (matrix > 0).double()
        return MatrixOperator(matrix).norm_bound().value

    def _axis_matrix(self, site: Site, axis: int) -> Tensor:
        """(outputs, inputs) of one axis in float64, entries rounded."""
        args, units = (
            site.args,
            torch.eye(site.shapes[0][axis + 1], dtype=torch.float64, device="cpu"),
        )
        if args["adaptive"]:
            return F.adaptive_avg_pool1d(units, site.shape[axis + 1]).T
        kernel, stride, padding = (args[k][axis] for k in ("kernel_size", "stride", "padding"))
        ceil, counted = self._options(site)
        return F.avg_pool1d(units[:, None], kernel, stride, padding, ceil, counted)[:, 0].T

    def _options(self, site: Site) -> tuple[bool, bool]:
        return site.args["ceil_mode"], site.args["count_include_pad"]

    def factor(self, site: Site) -> float:
        """The inverse of the one divisor."""
        divisor = site.args["divisor"]
        return 1.0 if divisor is None else up_divide(1.0, abs(float(divisor)))

    def rounding(self, site: Site) -> Rounding:
        """A sum of a window, which may overflow before it is divided, once an axis."""
        (gain,), largest = self.gains(site), 1
        for axis in range(len(site.shape) - 1):
            largest *= int((self._axis_matrix(site, axis) > 0).sum(1).max())
        divisor = max(float(largest), abs(float(site.args["divisor"] or 1)))
        return Rounding(largest + len(site.shape) + 2, up_product(gain.value, divisor))

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Average."""
        args, axes = site.args, len(site.shape) - 1
        if args["adaptive"]:
            return _ADAPTIVE[axes - 1](x[0], site.shape[1:])
        sizes = (args[key] for key in ("kernel_size", "stride", "padding"))
        extra = {} if args["divisor"] is None else {"divisor_override": args["divisor"]}
        return _AVERAGES[axes - 1](x[0], *sizes, *self._options(site), **extra)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Means, with pads that count or not."""
        args = site.args
        if args["adaptive"] or args["divisor"] is not None or args["ceil_mode"]:
            raise ValueError(
                "its windows must have one size, as ONNX has no others, and its divisor must be it"
            )
        options = {"kernel_shape": args["kernel_size"], "strides": args["stride"]}
        pads = [*args["padding"], *args["padding"]]
        e.node("AveragePool", x, pads=pads, count_include_pad=0, **options)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args, axes = site.args, len(site.shape) - 1
        if args["adaptive"]:
            return f"F.adaptive_avg_pool{axes}d({x[0]}, {tuple(site.shape[1:])})"
        sizes = ", ".join(str(tuple(args[key])) for key in ("kernel_size", "stride", "padding"))
        options = ", ".join(map(str, self._options(site)))
        extra = "" if args["divisor"] is None else f", divisor_override={args['divisor']}"
        return f"F.avg_pool{axes}d({x[0]}, {sizes}, {options}{extra})"


_LINE_MODES = {
    "linear": "linear",
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "bicubic",
}


@op("interpolate")
class Interpolate(AbstractSeparable):
    r"""Linear and cubic interpolation of an image, each axis by itself.

    A weight is a piecewise polynomial of a place in the axis, with a slope of at most 2. Places are
    at most n, the length of the axis or the output, and pass at most 8 roundings; so the weights
    are off by at most 16 n u, and by 32 u of their own. Of each output at most 4 weights are not 0,
    and at the border they may meet in one entry: together they move the norm by at most
    :math:`4 \sqrt m (16 n + 32) u` for m outputs.
    """

    def axis_norm(self, site: Site, axis: int) -> float:
        """With the weights of float64, and with those of float32."""
        norms = []
        for dtype, u in ((torch.float64, U64), (torch.float32, U32)):
            matrix = self._axis_matrix(site, axis, dtype).double()
            norm = MatrixOperator(matrix).norm_bound().value
            rest = up_root(16.0 * len(matrix)) * (16 * max(matrix.shape) + 32) * u * (1 + 2.0**-40)
            norms.append(up_sum(norm, rest) if dtype == torch.float64 else norm)
        return max(norms)

    def _axis_matrix(self, site: Site, axis: int, dtype: torch.dtype) -> Tensor:
        """(outputs, inputs); cubic interpolation needs two axes, the other of which stays."""
        units = torch.eye(site.shapes[0][axis + 1], dtype=dtype, device="cpu")
        mode, corners = _LINE_MODES[site.args["mode"]], site.args["align_corners"]
        (size, factor) = (None, None)
        if site.args["scale_factor"] is not None:
            factor = site.args["scale_factor"][axis]
        else:
            size = site.shape[axis + 1]
        if mode == "linear":
            return F.interpolate(units[:, None], size, factor, mode, corners)[:, 0].T
        sizes = None if size is None else (size, 1)
        factors = None if factor is None else (factor, 1.0)
        image = units[:, None, :, None]
        return F.interpolate(image, sizes, factors, mode, corners)[:, 0, :, 0].T  # pyright: ignore[reportArgumentType]

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Interpolate."""
        args = site.args
        return F.interpolate(
            x[0], args["size"], args["scale_factor"], args["mode"], args["align_corners"]
        )

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """By factors, or by sizes of the axes of the image."""
        args, axes = site.args, list(range(2, len(site.shape) + 1))
        corners = "align_corners" if args["align_corners"] else "pytorch_half_pixel"
        mode = "cubic" if args["mode"] == "bicubic" else "linear"
        options: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": corners}
        options |= {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
        if args["scale_factor"] is None:
            sizes = e.integers("sizes", site.shape[1:])
            e.node("Resize", [*x, "", "", sizes], axes=axes, **options)
        else:
            scales = e.numbers("scales", [1.0, 1.0, *args["scale_factor"]])
            e.node("Resize", [*x, "", scales], **options)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args = site.args
        options = f"{args['size']}, {args['scale_factor']}, {args['mode']!r}"
        return f"F.interpolate({x[0]}, {options}, {args['align_corners']})"


# What calls of torch are.


@captures("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
def interpolate(c: Call, input: Tensor, size: Any = None, scale_factor: Any = None,
                mode: str | None = None, align_corners: Any = None,
                recompute_scale_factor: Any = None, antialias: bool = False) -> str:  # fmt: skip
    """Nearest neighbours are copies, areas are averages, and the rest has weights."""
    if c.function == "upsample_bilinear":
        mode, align_corners = "bilinear", True
    mode, axes = mode or "nearest", input.dim() - 2
    if antialias or (mode not in ("nearest", "nearest-exact", "area") and mode not in _LINE_MODES):
        raise UnprovenError(
            f"`antialias` must be False, and `mode` no other than torch's; {mode!r}"
        )
    if axes < 1:
        raise UnprovenError("its input must be (batch, channels, axes)")
    if mode == "area":
        return c.add("average", [c.name(input)], args={"adaptive": True, "divisor": None})
    if recompute_scale_factor:
        size, scale_factor = tuple(c.result.shape[2:]), None
    factors = None if scale_factor is None else [float(f) for f in _per_axis(scale_factor, axes)]
    sizes = None if size is None else list(_per_axis(size, axes))
    args: dict[str, Any] = {"size": sizes, "scale_factor": factors, "mode": mode}
    if mode.startswith("nearest"):
        return c.add("upsample", [c.name(input)], args=args)
    args["align_corners"] = bool(align_corners)
    return c.add("interpolate", [c.name(input)], args=args)


def _per_axis(value: Any, axes: int) -> Sequence[Any]:
    return (value,) * axes if isinstance(value, int | float) else tuple(value)
