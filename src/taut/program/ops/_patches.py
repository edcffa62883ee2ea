"""Windows as columns, added up in an image."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, integers, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._selections import copies

__all__: list[str] = []


@op("fold")
class PatchSum(AbstractOp):
    """Windows as columns, added up in an image: the adjoint of `unfold`, whose norm it has."""

    affine = True

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The root of how many windows share an entry of the image."""
        args = site.args
        sizes = (args[key] for key in ("kernel_size", "dilation", "padding", "stride"))
        most = copies(lambda image: F.unfold(image, *sizes), site.shape)
        return (NormBound(up_root(float(most)), f"adds up to {most} entries"),)

    def rounding(self, site: Site) -> Rounding:
        """Sums of at most as many terms as a window has."""
        (gain,) = self.gains(site)
        return Rounding(site.shapes[0][0] // site.shape[0] + 1, gain.value)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Add up."""
        args = site.args
        sizes = (args[key] for key in ("kernel_size", "dilation", "padding", "stride"))
        return F.fold(x[0], site.shape[1:], *sizes)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Columns to an image."""
        args = site.args
        sizes = [e.integers("image", site.shape[1:]), e.integers("block", args["kernel_size"])]
        options = {"dilations": args["dilation"], "strides": args["stride"]}
        e.node("Col2Im", [*x, *sizes], pads=[*args["padding"], *args["padding"]], **options)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args = site.args
        sizes = (tuple(args[key]) for key in ("kernel_size", "dilation", "padding", "stride"))
        return f"F.fold({x[0]}, {tuple(site.shape[1:])}, {', '.join(map(str, sizes))})"


@captures("fold", "col2im")
def fold(c: Call, input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1,
         padding: Any = 0, stride: Any = 1) -> str:  # fmt: skip
    """Windows added up."""
    if input.dim() != 3:
        raise UnprovenError("its input must be (batch, entries of a window, windows)")
    values = {
        "kernel_size": kernel_size,
        "dilation": dilation,
        "padding": padding,
        "stride": stride,
    }
    args = {k: [v, v] if isinstance(v, int) else list(v) for k, v in values.items()}
    return c.add("fold", [c.name(input)], args=args)


@reads("Col2Im")
def _col2im(x: Tensor, image_shape: Any, block_shape: Any, *, dilations: Any = None,
            pads: Any = None, strides: Any = None) -> Tensor:  # fmt: skip
    left = (pads or [0, 0, 0, 0])[:2]
    if len(integers(block_shape)) != 2 or left != (pads or [0, 0, 0, 0])[2:]:
        raise ValueError("it must make an image of two axes, padded alike on both sides")
    sizes: Any = (integers(image_shape), integers(block_shape), dilations or 1, left, strides or 1)
    return F.fold(x, *sizes)
