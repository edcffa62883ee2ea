"""Sorting along an axis."""

from typing import Any

import torch
from torch import Tensor

from taut.program._call import Call
from taut.program._op import AbstractOp, captures, integers, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError

__all__: list[str] = []


@op("sort")
class Sort(AbstractOp):
    """The entries along an axis of the sample in their order.

    The sorted values are the closest of all orders (rearrangement inequality), and on each piece
    the map is a permutation: 1-Lipschitz.
    """

    proof = "sorts: a permutation at each input"
    exact = True

    def gains(self, site: Site) -> tuple[float, ...]:
        """Norms of differences do not grow."""
        return (1.0,)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Sort."""
        return torch.sort(
            x[0], dim=site.args["axis"] + 1, descending=site.args["descending"]
        ).values

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """All of the largest, or of the smallest, in order."""
        axis, largest = site.args["axis"], int(site.args["descending"])
        size = e.integers("size", [site.shape[axis]])
        options = {"axis": axis + 1, "largest": largest, "sorted": 1}
        e.node("TopK", [*x, size], outputs=["places"], **options)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        axis, descending = site.args["axis"] + 1, site.args["descending"]
        return f"torch.sort({x[0]}, dim={axis}, descending={descending}).values"


@captures("sort", "msort")
def sort(
    c: Call, input: Tensor, dim: int = -1, descending: bool = False, *, stable: Any = None
) -> tuple[str, None]:
    """Values, and places that no rule follows."""
    if dim % input.dim() == 0:
        raise UnprovenError("it mixes samples of the batch")
    args = {"axis": dim % input.dim() - 1, "descending": descending}
    return c.add("sort", [c.name(input)], tuple(input.shape[1:]), args), None


# What nodes of ONNX are, as functions of torch.


@reads("TopK")
def _top_k(
    x: Tensor, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, ...]:
    if integers(k) != [x.shape[axis]] or sorted != 1:
        raise ValueError("it must sort all entries of an axis")
    return tuple(torch.sort(x, dim=axis, descending=bool(largest)))
