"""Pools that take the norm of each window."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, captures, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._pooling import _axes, _per_axis

__all__: list[str] = []

_POOLS: tuple[Any, ...] = (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)


@op("lp_pool")
class NormPool(AbstractOp):
    """The norm of each window, of an even order; torch sums powers with their signs.

    A norm of order p >= 2 moves at most as far as its window does in l2. So the squared distance is
    at most that of the inputs times the largest number of windows that share an entry.
    """

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The windows that share an entry are counted in this image."""
        args, shares = site.args, 1
        axes = zip(site.shapes[0][1:], args["kernel_size"], args["stride"], strict=True)
        for n, k, s in axes:
            windows = torch.arange(n, device="cpu").unfold(0, k, s)
            shares *= int(windows.flatten().bincount().max())
        if shares == 1:
            return (NormBound(1.0, "norms of windows that do not overlap"),)
        return (NormBound(up_root(float(shares)), f"norms; up to {shares} windows share an entry"),)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Pool."""
        args = site.args
        function, sizes = _POOLS[len(site.shape) - 2], (args["kernel_size"], args["stride"])
        if len(site.shape) == 2:  # takes numbers
            sizes = tuple(size[0] for size in sizes)
        return function(x[0], args["order"], *sizes)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A pool."""
        args = site.args
        e.node("LpPool", x, p=args["order"], kernel_shape=args["kernel_size"],
               strides=args["stride"])  # fmt: skip

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args, axes = site.args, len(site.shape) - 1
        sizes = [
            tuple(args[key]) if axes > 1 else args[key][0] for key in ("kernel_size", "stride")
        ]
        return f"F.lp_pool{axes}d({x[0]}, {args['order']}, {sizes[0]}, {sizes[1]})"


@captures("lp_pool1d", "lp_pool2d", "lp_pool3d")
def lp_pool(c: Call, input: Tensor, norm_type: Any, kernel_size: Any, stride: Any = None,
            ceil_mode: bool = False) -> str:  # fmt: skip
    """Norms of windows; of infinite order they are maxima of absolute values."""
    axes = _axes(c, input)
    kernel = _per_axis(kernel_size, axes)
    steps = kernel if stride is None else _per_axis(stride, axes)
    fits = zip(input.shape[2:], kernel, steps, strict=True)
    if ceil_mode and any((n - k) % s for n, k, s in fits):
        raise UnprovenError("`ceil_mode` must be False where windows do not fit")
    args = {"kernel_size": kernel, "stride": steps}
    if norm_type == math.inf:
        moduli = c.add("abs", [c.name(input)], tuple(input.shape[1:]))
        extra = {"padding": (0,) * axes, "dilation": (1,) * axes, "ceil_mode": False}
        return c.add("max_pool", [moduli], args=args | extra)
    if not (norm_type >= 2 and norm_type % 2 == 0):
        raise UnprovenError(
            f"`norm_type` must be even, as torch sums signed powers; got {norm_type}"
        )
    return c.add("lp_pool", [c.name(input)], args=args | {"order": int(norm_type)})


# What nodes of ONNX are, as functions of torch.


@reads("LpPool")
def _onnx_lp_pool(x: Tensor, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None,
                  kernel_shape: Any, p: int = 2, pads: Any = None,
                  strides: Any = None) -> Tensor:  # fmt: skip
    axes = len(kernel_shape)
    if auto_pad != "NOTSET" or ceil_mode or any(pads or ()) or set(dilations or [1]) != {1}:
        raise ValueError("it must have no pads, dilation or ceil_mode")
    if not 1 <= axes <= len(_POOLS):
        raise ValueError("it must have 1 to 3 axes")
    sizes = (kernel_shape, strides or [1] * axes)
    return _POOLS[axes - 1](x, p, *(size if axes > 1 else size[0] for size in sizes))


reads("GlobalLpPool")(lambda x, *, p=2: torch.norm(x, p, list(range(2, x.dim())), True))
