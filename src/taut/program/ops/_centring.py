"""A value less its mean along axes of a sample: an orthogonal projection."""

import math
from typing import Any

from torch import Tensor

from taut.linalg.rounding import up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, op
from taut.program._program import Site

__all__ = ["mean_axes"]


@op("centre")
class Centre(AbstractOp):
    """x - mean(x): what is left is orthogonal to values that are constant along the axes.

    By itself the difference would count with 2, the norms of x and of the copies of its mean.
    """

    affine = True
    proof = "less its mean: an orthogonal projection"

    def gains(self, site: Site) -> tuple[float, ...]:
        """A projection."""
        return (1.0,)

    def rounding(self, site: Site) -> Rounding:
        r"""The mean of n moduli is at most as large as they are; the sum, sqrt(n) times that.

        A sum of n terms, its division, the difference and one to spare: n + 4. Their moduli
        together have the norm 2.
        """
        count = math.prod(site.shapes[0][axis] for axis in site.args["axes"])
        return Rounding(count + 4, max(2.0, up_root(float(count))))

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Subtract the mean."""
        return x[0] - x[0].mean([axis + 1 for axis in site.args["axes"]], keepdim=True)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A mean, and the difference."""
        axes = e.integers("axes", [axis + 1 for axis in site.args["axes"]])
        e.node("Sub", [*x, e.node("ReduceMean", [*x, axes], "mean", keepdims=1)])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        dims = tuple(axis + 1 for axis in site.args["axes"])
        return f"({x[0]} - torch.mean({x[0]}, {dims}, True))"


def mean_axes(c: Call, x: str, mean: str) -> list[int] | None:
    """The axes along which a value is the mean of another, each with one entry; None if not."""
    made, shape = c.made(mean), c.shape(mean)
    if made is not None and made.op == "reshape":
        made = c.made(made.inputs[0])
    if made is None or made.op != "mean" or made.inputs != (x,):
        return None
    axes = made.args["axes"]
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(c.shape(x)))
    return list(axes) if shape == kept else None
