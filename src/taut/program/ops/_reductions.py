"""Sums and means over axes of the sample."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from taut.linalg.rounding import up_product, up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, integers, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError

__all__: list[str] = []


class AbstractReduction(AbstractOp):
    """Each output is made of the entries along `axes`."""

    affine = True

    def rounding(self, site: Site) -> Rounding:
        """A mean divides last: until then it is a sum."""
        (gain,) = self.gains(site)
        count = _count(site)
        return Rounding(count + 2, up_product(float(gain), float(count)))  # pyright: ignore[reportArgumentType]

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Reduce."""
        dims = [axis + 1 for axis in site.args["axes"]]
        return getattr(torch, self.kind)(x[0], dims, keepdim=site.args["keepdim"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A reduction; the axes are an input."""
        axes = e.integers("axes", [axis + 1 for axis in site.args["axes"]])
        e.node(f"Reduce{self.kind.title()}", [*x, axes], keepdims=int(site.args["keepdim"]))

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        dims = tuple(axis + 1 for axis in site.args["axes"])
        return f"torch.{self.kind}({x[0]}, {dims}, {site.args['keepdim']})"


def _count(site: Site) -> int:
    """How many entries each output takes together."""
    return math.prod(site.shapes[0]) // max(1, math.prod(site.shape))


@op("sum")
class Sum(AbstractReduction):
    """Sums."""

    proof = "root of the number of terms"

    def gains(self, site: Site) -> tuple[float, ...]:
        """Cauchy and Schwarz."""
        return (up_root(float(_count(site))),)


@op("mean")
class Mean(AbstractReduction):
    """Means."""

    proof = "root of the number of terms, inverted"

    def gains(self, site: Site) -> tuple[float, ...]:
        """Cauchy and Schwarz."""
        count = _count(site)
        return (up_root(1.0 if count == 1 else math.nextafter(1.0 / count, math.inf)),)


def _reduced(c: Call, input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None,
             axis: Any = None, kind: str) -> str:  # fmt: skip
    if dtype is not None:
        raise UnprovenError("a sum in a `dtype` of its own rounds in its own way")
    dim = axis if dim is None else dim
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if not dims or any(d % input.dim() == 0 for d in dims):
        raise UnprovenError("it sums over the batch; give `dim` without 0")
    axes = sorted(d % input.dim() - 1 for d in dims)
    return c.add(kind, [c.name(input)], args={"axes": axes, "keepdim": bool(keepdim)})


captures("sum", kind="sum")(_reduced)
captures("mean", kind="mean")(_reduced)


# What nodes of ONNX are, as functions of torch.


def _reader(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reduction whose axes are an input, or an attribute in files before ONNX 18."""

    def read(x: Tensor, along: Any = None, /, *, axes: Any = None, keepdims: int = 1,
             noop_with_empty_axes: int = 0) -> Tensor:  # fmt: skip
        named = along if axes is None else axes
        if not named:
            raise ValueError("it must name its axes: over all, it mixes the samples of a batch")
        return function(x, dim=tuple(integers(named)), keepdim=bool(keepdims))

    return read


reads("ReduceSum")(_reader(torch.sum))
reads("ReduceMean")(_reader(torch.mean))
reads("ReduceMax")(_reader(torch.amax))
reads("ReduceMin")(_reader(torch.amin))
reads("ReduceL1")(_reader(lambda x, dim, keepdim: torch.linalg.vector_norm(x, 1, dim, keepdim)))
reads("ReduceL2")(_reader(lambda x, dim, keepdim: torch.linalg.vector_norm(x, 2, dim, keepdim)))
