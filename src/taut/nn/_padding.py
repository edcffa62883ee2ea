"""Padding that keeps an orthogonal kernel an orthogonal (or 1-Lipschitz) operator."""

from itertools import chain
from operator import gt
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Shaped
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import wholes
from taut._torch_private import inside_function_mode, is_traced, is_watched
from taut.linalg.derivatives import applied
from taut.linalg.rates import counts_launches
from taut.nn._compiled_wrap import CompiledWrap
from taut.nn._wrap import Size, Wrap
from taut.program import AbstractOp, Site, op


class Pads(NamedTuple):
    """How an input is padded before a valid convolution: one number per spatial axis each."""

    extend: Size
    left: Size
    right: Size


def make_pads(input_size: Size, span: Size, stride: Size, padding: str | Size, mode: str) -> Pads:
    """The pads of a layer for one input size.

    `span` has the positions from the first tap to the last: `dilation * (kernel_size - 1) + 1`.

    `"same"` gives `ceil(n / stride)` outputs. Where the stride does not divide a size that is
    padded circularly, zeros first extend it to the next multiple: no strided convolution on the
    periodic domain of the size itself is orthogonal. An axis without padding is left as it is.
    """
    same = isinstance(padding, str)
    total = [max(0, k - s) for k, s in zip(span, stride, strict=True)]
    left = tuple(t // 2 for t in total) if same else padding
    right = tuple(t - t // 2 for t in total) if same else padding
    extended = [same or (mode == "circular" and p > 0) for p in left]
    extend = (-n % s if e else 0 for n, s, e in zip(input_size, stride, extended, strict=True))
    return Pads(tuple(extend), left, right)


def pad(x: Shaped[Tensor, "..."], pads: Pads, mode: str) -> Shaped[Tensor, "..."]:
    """Apply the pads: zeros for `extend`, then zeros or the other end of the periodic domain."""
    extend, left, right = pads
    if mode == "zeros":
        return _zero_pad(x, left, tuple(map(sum, zip(right, extend, strict=True))))
    if any(extend):
        x = _zero_pad(x, (0,) * len(left), extend)
    if not any(left + right):
        return x
    size = x.shape[-len(left) :]
    if max(left + right) > min(size) and any(map(gt, left + right, size + size)):
        return _wrap_repeatedly(x, left, right)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return CompiledWrap.apply(x, left, right)  # pyright: ignore[reportReturnType]
    gathered = counts_launches(x.device) and not inside_function_mode()
    if gathered or (torch.is_grad_enabled() and x.requires_grad):
        return applied(Wrap, x, left, right)
    if not is_watched(x):  # torch's own pad puts channels first
        return Wrap.forward(x, left, right)
    if is_traced():  # the traces of torch.func.linearize lose what torch's own pad writes
        return _joined(x, left, right)
    return F.pad(x, torch_pads(left, right), "circular")


def _joined(x: Tensor, left: Size, right: Size) -> Tensor:
    """Circular padding by one concatenation for each axis."""
    for axis, (a, b) in enumerate(zip(left, right, strict=True), x.ndim - len(left)):
        x = torch.cat((x.narrow(axis, x.shape[axis] - a, a), x, x.narrow(axis, 0, b)), axis)
    return x


def torch_pads(left: Size, right: Size) -> list[int]:
    """As `F.pad` takes them: (left, right) of the last axis first."""
    return list(chain(*zip(left[::-1], right[::-1], strict=True)))


def _zero_pad(x: Tensor, left: Size, right: Size) -> Tensor:
    return _pad_if_any(x, torch_pads(left, right))


def _pad_if_any(x: Tensor, pads: list[int]) -> Tensor:
    return F.pad(x, pads) if isinstance(x, fx.Proxy) or any(pads) else x


def _wrap_repeatedly(x: Tensor, left: Size, right: Size) -> Tensor:
    """Circular padding by more than the size of the input."""
    for axis, (a, b) in enumerate(zip(left, right, strict=True), x.ndim - len(left)):
        n = x.shape[axis]
        x = x.index_select(axis, torch.arange(-a, n + b, device=x.device) % n)
    return x


class _PadToMultiple(nn.Module):
    """Add zeros after each axis until `multiple` divides its size."""

    axes: int

    def __init__(self, multiple: int | Size) -> None:
        super().__init__()
        self.multiple = wholes("multiple", multiple, self.axes)

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Pad."""
        pads: list[int] = []
        axis = -len(self.multiple)
        for multiple in self.multiple:
            pads = [0, -input.shape[axis] % multiple] + pads  # noqa: RUF005  (TorchScript)
            axis += 1
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return _pad_if_any(input, pads)
        return F.pad(input, pads)

    def extra_repr(self) -> str:
        """The multiple."""
        return f"multiple={self.multiple}"


@final
class PadToMultiple1d(_PadToMultiple):
    """Pad with zeros at the end until `multiple` divides the length; see :class:`PadToMultiple2d`.

    Inputs are `(batch, c, l)` or `(c, l)`.

    Example:
        >>> PadToMultiple1d(4)(torch.zeros(1, 3, 5)).shape
        torch.Size([1, 3, 8])
    """

    axes = 1


@final
class PadToMultiple2d(_PadToMultiple):
    r"""Pad with zeros at the bottom and right until `multiple` divides height and width.

    Strided layers pad so if their stride does not divide the size of the input; in frozen models
    this module precedes the plain convolution.

    Guarantee: an isometry of l2, linear.
    Cost: one copy of the input; none if there is nothing to add.

    Inputs are `(batch, c, h, w)` or `(c, h, w)`.

    Args:
        multiple: one number, or a pair (rows, columns).

    Raises:
        ValueError: if `multiple` is not made of positive integers.

    Example:
        >>> PadToMultiple2d(4)(torch.zeros(1, 3, 5, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    axes = 2


@final
class PadToMultiple3d(_PadToMultiple):
    """Pad depth, height and width with zeros; see :class:`PadToMultiple2d`.

    Inputs are `(batch, c, d, h, w)` or `(c, d, h, w)`.

    Example:
        >>> PadToMultiple3d((2, 1, 4))(torch.zeros(1, 3, 5, 5, 5)).shape
        torch.Size([1, 3, 6, 5, 8])
    """

    axes = 3


TO_MULTIPLE = {1: PadToMultiple1d, 2: PadToMultiple2d, 3: PadToMultiple3d}
"""By the number of spatial axes."""


@op(PadToMultiple1d, PadToMultiple2d, PadToMultiple3d)
class _PadToMultipleOp(AbstractOp):
    proof = "adds zeros"
    exact = True
    affine = True
    helper = '''
def pad_to_multiple(x, *multiple):
    """Zeros behind each axis until the size is a multiple."""
    pairs = zip(x.shape[2:], multiple)
    return F.pad(x, [n for size, m in list(pairs)[::-1] for n in (0, -size % m)])
'''

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        multiple = list(site.args["multiple"])
        size = e.node("Shape", x, "size", start=2, end=2 + len(multiple))
        negative = e.node("Neg", [size], "negative")
        missing = e.node("Mod", [negative, e.integers("multiple", multiple)], "missing")
        before = e.integers("before", [0] * (4 + len(multiple)))
        pads = e.node("Concat", [before, missing], "pads", axis=0)
        e.node("Pad", [*x, pads], mode="constant")

    def source(self, site: Site, *x: str) -> str:
        return f"pad_to_multiple({x[0]}, {', '.join(map(str, site.args['multiple']))})"
