"""Norms, log-sum-exp and extrema along axes of a sample: 1-Lipschitz functions of a vector."""

import math
from typing import Any

import torch
from torch import Tensor

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_root
from taut.program._call import Call
from taut.program._op import EXACT, AbstractOp, Rounding, captures, integers, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._joins import extremum

__all__: list[str] = []


def _count(site: Site) -> int:
    """How many entries each output is made of."""
    return math.prod(site.shapes[0][axis] for axis in site.args["axes"])


class AbstractVectorFunction(AbstractOp):
    """A number made of the entries along `axes`."""

    onnx = ""

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """Each entry goes to one output only."""
        return (NormBound(1.0, self.proof),)

    def _dims(self, site: Site) -> tuple[int, ...]:
        return tuple(axis + 1 for axis in site.args["axes"])

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Apply the function."""
        return getattr(torch, self.kind)(x[0], self._dims(site), keepdim=site.args["keepdim"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A reduction; the axes are an input."""
        axes = e.integers("axes", self._dims(site))
        e.node(self.onnx, [*x, axes], keepdims=int(site.args["keepdim"]))

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"torch.{self.kind}({x[0]}, {self._dims(site)}, {site.args['keepdim']})"


@op("amax")
class Amax(AbstractVectorFunction):
    """The largest entry moves at most as far as the entry that moves farthest."""

    proof = "maximum of entries"
    exact = True
    onnx = "ReduceMax"


@op("amin")
class Amin(AbstractVectorFunction):
    """The smallest entry, likewise."""

    proof = "minimum of entries"
    exact = True
    onnx = "ReduceMin"


@op("logsumexp")
class LogSumExp(AbstractVectorFunction):
    """The gradient is the softmax: entries >= 0 of sum 1, so that its norm is at most 1."""

    proof = "its gradient is a softmax, of norm at most 1"
    onnx = "ReduceLogSumExp"


@op("norm")
class Norm(AbstractVectorFunction):
    r"""The norm of order p = `order`; :math:`| |x|_p - |y|_p | \le |x - y|_p`.

    That is at most :math:`|x - y|_2` for p >= 2, and :math:`\sqrt n |x - y|_2` for p = 1.
    """

    proof = "triangle inequality"

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """By its order."""
        value = up_root(float(_count(site))) if site.args["order"] == 1 else 1.0
        return (NormBound(value, self.proof),)

    def rounding(self, site: Site) -> Rounding:
        """A sum, or a maximum; squares may overflow, or vanish."""
        if site.args["order"] == {"float": "inf"}:
            return EXACT
        if site.args["order"] == 1:
            (gain,) = self.gains(site)
            return Rounding(_count(site) + 1, gain.value)
        return super().rounding(site)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Apply the function."""
        order = site.args["order"]
        order = float(order["float"]) if isinstance(order, dict) else order
        return torch.linalg.vector_norm(x[0], order, self._dims(site), site.args["keepdim"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Sums of squares or of absolute values, by names of their own."""
        names = {1.0: "ReduceL1", 2.0: "ReduceL2"}
        order = site.args["order"]
        if isinstance(order, dict) or order not in names:
            raise ValueError("its order must be 1 or 2")
        axes = e.integers("axes", self._dims(site))
        e.node(names[order], [*x, axes], keepdims=int(site.args["keepdim"]))

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        order = site.args["order"]
        order = "math.inf" if isinstance(order, dict) else repr(order)
        if order == "math.inf":
            raise ValueError("its order must be finite")
        dims, keepdim = self._dims(site), site.args["keepdim"]
        return f"torch.linalg.vector_norm({x[0]}, {order}, {dims}, {keepdim})"


# What calls of torch are.


def _axes(dim: Any, dims: int) -> list[int]:
    chosen = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if not chosen or any(d % dims == 0 for d in chosen):
        raise UnprovenError("it takes the samples of a batch together; give `dim` without 0")
    return sorted(d % dims - 1 for d in chosen)


def _reduced(c: Call, input: Tensor, dim: Any = None, keepdim: bool = False, *,
             kind: str) -> str:  # fmt: skip
    args = {"axes": _axes(dim, input.dim()), "keepdim": bool(keepdim)}
    return c.add(kind, [c.name(input)], args=args)


for _kind in ("amax", "amin", "logsumexp"):
    captures(_kind, kind=_kind)(_reduced)


def _largest(c: Call, input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None,
             kind: str) -> Any:  # fmt: skip
    """Of two tensors, or along an axis, where torch adds the places."""
    second = dim if isinstance(dim, Tensor) else other
    if second is not None:
        return extremum(c, input, second, kind={"amax": "maximum", "amin": "minimum"}[kind])
    if not isinstance(c.result, tuple):
        raise UnprovenError("it takes the samples of a batch together; give `dim` without 0")
    args = {"axes": _axes(dim, input.dim()), "keepdim": bool(keepdim)}
    return c.add(kind, [c.name(input)], tuple(c.result[0].shape[1:]), args), None


captures("max", kind="amax")(_largest)
captures("min", kind="amin")(_largest)


@captures("norm", "linalg_vector_norm", "linalg_norm")
def norm(c: Call, input: Tensor, p: Any = None, dim: Any = None, keepdim: bool = False,
         *_: Any, ord: Any = None, **kwargs: Any) -> str:  # fmt: skip
    """Norms of vectors of order 1, 2 or more; of matrices the Frobenius norm."""
    order, axes = p if ord is None else ord, _axes(dim, input.dim())
    if c.result.dtype != input.dtype:
        raise UnprovenError("its result has another precision, which rounds")
    if c.function == "linalg_norm" and len(axes) == 2 and order not in (None, "fro"):
        raise UnprovenError(f"of norms of matrices only 'fro' has a rule; got {order!r}")
    order = 2.0 if order in (None, "fro") else order
    if not isinstance(order, int | float) or not (order == 1 or order >= 2):
        raise UnprovenError(f"its order must be 1, or 2 at least; got {order!r}")
    args = {"order": float(order), "axes": axes, "keepdim": bool(keepdim)}
    return c.add("norm", [c.name(input)], args=args)


# What nodes of ONNX are, as functions of torch.


@reads("ReduceLogSumExp")
def _reduce_logsumexp(
    x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return torch.logsumexp(x, integers(axes), bool(keepdims))
