"""Softmax and what is made of it, along axes of a sample."""

from typing import Any

import torch
from torch import Tensor

from taut.linalg.rounding import up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, captures, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError

__all__: list[str] = []


@op("softmax")
class Softmax(AbstractOp):
    r"""exp x / sum exp x along an axis.

    The Jacobian diag(p) - p p^T is symmetric with rows of absolute sum 2 p_i (1 - p_i), at most 1/2
    (Gershgorin).
    """

    proof = "Jacobian of norm at most 1/2"

    def gains(self, site: Site) -> tuple[float, ...]:
        """One half."""
        return (0.5,)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        return torch.softmax(x[0], site.args["axis"] + 1)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Along the axis."""
        e.node("Softmax", x, axis=site.args["axis"] + 1)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"torch.softmax({x[0]}, {site.args['axis'] + 1})"


@op("log_softmax")
class LogSoftmax(AbstractOp):
    r"""x - log sum exp x along an axis of n entries.

    The Jacobian is :math:`I - \mathbf 1 p^\top` for the softmax p. Its norm is a convex function of
    p, so that it is largest at a vertex of the simplex, :math:`p = e_i`. There, with w the other
    entries of v, :math:`|v - v_i \mathbf 1| \le |w| + \sqrt{n - 1} |v_i| \le \sqrt n |v|`; equal
    for :math:`v_i = -\sqrt{n - 1}` and w a unit vector of equal entries. One-hot p are limits: the
    constant is :math:`\sqrt n`, not attained.
    """

    proof = "Jacobian of norm at most the root of the number of entries"

    def gains(self, site: Site) -> tuple[float, ...]:
        """The root of the number of entries along the axis."""
        return (up_root(float(site.shape[site.args["axis"]])),)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        return torch.log_softmax(x[0], site.args["axis"] + 1)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Along the axis."""
        e.node("LogSoftmax", x, axis=site.args["axis"] + 1)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"torch.log_softmax({x[0]}, {site.args['axis'] + 1})"


# What calls of torch are.


def _axis(c: Call, input: Tensor, dim: int | None) -> int:
    if dim is None or dim % input.dim() == 0:
        raise UnprovenError("it must have a `dim` that is not the batch")
    if c.result.dtype != input.dtype:
        raise UnprovenError("its result has another precision, which rounds")
    return dim % input.dim() - 1


def _softmax(c: Call, input: Tensor, dim: int | None = None, *_: Any, kind: str,
             **kwargs: Any) -> str:  # fmt: skip
    return c.add(kind, [c.name(input)], args={"axis": _axis(c, input, dim)})


captures("softmax", kind="softmax")(_softmax)
captures("log_softmax", kind="log_softmax")(_softmax)


@captures("softmin")
def softmin(c: Call, input: Tensor, dim: int | None = None, *_: Any, **kwargs: Any) -> str:
    """Softmax of what is negated."""
    args = {"axis": _axis(c, input, dim)}
    return c.add("softmax", [c.add("neg", [c.name(input)])], args=args)


# What nodes of ONNX are, as functions of torch.

reads("Softmax")(lambda x, *, axis=-1: torch.softmax(x, axis))
reads("LogSoftmax")(lambda x, *, axis=-1: torch.log_softmax(x, axis))
