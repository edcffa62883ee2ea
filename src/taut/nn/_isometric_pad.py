r"""Reflected and replicated padding as isometries.

Padding P alone has the norm :math:`\sqrt{\max c}`, where c counts the places of an entry in the
padded image: 2 for a reflection in 2-D. Divided by it the interior would shrink; instead
:math:`P \, \mathrm{diag}(c)^{-1/2}` divides entries near the border alone, each by its own root.
"""

from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import wholes
from taut.linalg.derivatives import applied, batched_linear, keep
from taut.linalg.padding import isometric_mask
from taut.nn._padding import Size, torch_pads
from taut.program import AbstractOp, Rounding, Site, op

MODES = ("reflect", "replicate")

fx.wrap("isometric_mask")  # it asks for a precision, which a symbolic trace does not know


def isometric_pad(x: Tensor, left: Size, right: Size, mode: str) -> Tensor:
    r"""Reflect or replicate the border, each entry divided by the root of how often it is copied.

    Guarantee: linear, with orthonormal columns: ``|isometric_pad(x)| == |x|`` in l2.

    Args:
        x: `(batch, c, *size)` or `(c, *size)`.
        left: entries added before each spatial axis, in their order.
        right: entries added behind it.
        mode: `"reflect"` or `"replicate"`.

    Raises:
        ValueError: if a reflection is not smaller than its axis.

    Example:
        >>> isometric_pad(torch.ones(1, 1, 4), (1,), (0,), "reflect").square()
        tensor([[[0.5000, 1.0000, 0.5000, 1.0000, 1.0000]]])
    """
    return _pad(x, torch_pads(left, right), mode)


# No shapes in the annotations: TorchScript reads them.
def _plain(x: Tensor, padding: list[int], mode: str) -> Tensor:
    return F.pad(x * isometric_mask(x, padding, mode), padding, mode)


def _pad(x: Tensor, padding: list[int], mode: str) -> Tensor:
    if isinstance(x, fx.Proxy):
        return _plain(x, padding, mode)
    if not any(padding):
        return x
    if not torch.compiler.is_compiling():
        _check_size(x, padding, mode)
        if torch.is_grad_enabled() and x.requires_grad:
            mask = isometric_mask(x, padding, mode)
            return applied(_Pad, x, mask, padding, mode)
    return _plain(x, padding, mode)


def _check_size(x: Tensor, padding: list[int], mode: str) -> None:
    axes = len(padding) // 2
    if x.dim() not in (axes + 1, axes + 2):
        raise ValueError(
            f"`input` must be (batch, channels, ...) or (channels, ...) with {axes} spatial "
            f"{'axis' if axes == 1 else 'axes'}; got the shape {tuple(x.shape)}."
        )
    size = x.shape[-axes:]
    pairs = zip(padding[::2], padding[1::2], size[::-1], strict=True)
    if mode == "reflect" and any(max(a, b) >= n for a, b, n in pairs):
        raise ValueError(
            f"`padding` must be smaller than the size of the input to reflect it; got {padding} "
            f"(the last axis first), size {tuple(size)}."
        )


class _Pad(torch.autograd.Function):
    """The padding with a backward in one pass; those of torch take longer."""

    @staticmethod
    def forward(x: Tensor, mask: Tensor, padding: list[int], mode: str) -> Tensor:
        return F.pad(x * mask, padding, mode)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, list[int], str], output: Tensor) -> None:
        keep(ctx, inputs[1])
        ctx.options = inputs[2:]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mask,) = ctx.saved_tensors
        return applied(_Fold, grad, mask, *ctx.options), None, None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_: Any) -> Tensor:
        return applied(_Pad, tangent, *ctx.saved_tensors, *ctx.options)

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        return batched_linear(_Pad, in_dims[0], *args)


class _Fold(torch.autograd.Function):
    """The adjoint of `_Pad`: the image, plus what is copied from it, times the mask."""

    @staticmethod
    def forward(y: Tensor, mask: Tensor, padding: list[int], mode: str) -> Tensor:
        return _folded(y, mask, mask.dim(), padding, mode)

    setup_context = staticmethod(_Pad.setup_context)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mask,) = ctx.saved_tensors
        return applied(_Pad, grad, mask, *ctx.options), None, None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_: Any) -> Tensor:
        return applied(_Fold, tangent, *ctx.saved_tensors, *ctx.options)

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        return batched_linear(_Fold, in_dims[0], *args)


def _folded(y: Tensor, mask: Tensor, axes: int, padding: list[int], mode: str) -> Tensor:
    """`y` without the padding of its last `axes` axes, which is added to what it copies."""
    image, added, reflect = y, [], mode == "reflect"
    for axis in range(axes, 0, -1):
        n, a, b = mask.shape[-axis], padding[2 * axis - 2], padding[2 * axis - 1]
        # Each side: where it starts, how much of it there is, and where its originals start.
        sides = ((0, a, 1 if reflect else 0), (a + n, b, n - 1 - b if reflect else n - 1))
        for start, width, place in sides:
            if not width:
                continue
            border = image.narrow(-axis, start, width)
            if width > 1:
                border = border.flip(-axis) if reflect else border.sum(-axis, keepdim=True)
            strip = mask.narrow(-axis, place, border.shape[-axis])
            added.append((axis, place, _folded(border, strip, axis - 1, padding, mode)))
        image = image.narrow(-axis, a, n)
    x = image * mask
    for axis, place, border in added:
        x.narrow(-axis, place, border.shape[-axis]).add_(border)
    return x


class _IsometricPad(nn.Module):
    axes: int

    def __init__(self, padding: int | tuple[int, ...], mode: str = "reflect") -> None:
        super().__init__()
        self.padding = wholes("padding", padding, 2 * self.axes, least=0)
        if mode not in MODES:
            raise ValueError(f"`mode` must be 'reflect' or 'replicate'; got {mode!r}.")
        self.mode = mode

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Pad."""
        padding: list[int] = []
        for n in self.padding:
            padding.append(n)
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return _pad(input, padding, self.mode)
        return _plain(input, padding, self.mode)

    def extra_repr(self) -> str:
        """The padding and its mode."""
        return f"{self.padding}, mode={self.mode!r}"


@final
class IsometricPad1d(_IsometricPad):
    """Reflect or replicate the ends of a signal, isometrically; see :class:`IsometricPad2d`.

    Inputs are `(batch, c, l)` or `(c, l)`; `padding` is one number, or `(left, right)`.

    Example:
        >>> IsometricPad1d((0, 2), "replicate")(torch.tensor([[1.0, 3.0]])) ** 2
        tensor([[1.0000, 3.0000, 3.0000, 3.0000]])
    """

    axes = 1


@final
class IsometricPad2d(_IsometricPad):
    r"""Reflection or replication padding of an image, scaled to an isometry.

    `torch.nn.ReflectionPad2d` has norm 2 and `torch.nn.ReplicationPad2d(p)` norm p + 1, as both
    copy entries. Here each entry is first divided by the root of how often it occurs in the padded
    image; the interior stays as it is. Behind it every kernel is 1-Lipschitz that is so with zeros
    for padding.

    Guarantee: linear; all singular values are 1. Factors are rounded down: as executed, and but for
        the rounding of the products, it never raises a norm.
    Cost: a product with a mask and the padding of torch; less than that of torch in the backward.

    Inputs are `(batch, c, h, w)` or `(c, h, w)`, of any size.

    Args:
        padding: one number, or `(left, right, top, bottom)`, as of `torch.nn.ReflectionPad2d`.
        mode: `"reflect"` or `"replicate"`.

    Raises:
        ValueError: if `padding` is not made of integers >= 0, or `mode` is another; in the forward
            if a reflection is not smaller than its axis.

    Example:
        >>> x = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
        >>> y = IsometricPad2d(2)(x)
        >>> y.shape, torch.allclose(y.norm(), x.norm())
        (torch.Size([1, 1, 9, 9]), True)
    """

    axes = 2


@final
class IsometricPad3d(_IsometricPad):
    """Reflect or replicate the border of a volume, isometrically; see :class:`IsometricPad2d`.

    Inputs are `(batch, c, d, h, w)` or `(c, d, h, w)`; `padding` is one number, or
    `(left, right, top, bottom, front, back)`.

    Example:
        >>> IsometricPad3d(1)(torch.zeros(1, 3, 2, 3, 4)).shape
        torch.Size([1, 3, 4, 5, 6])
    """

    axes = 3


@op(IsometricPad1d, IsometricPad2d, IsometricPad3d)
class _IsometricPadOp(AbstractOp):
    r"""The exact factor is :math:`1 / \sqrt c`; the computed one is at most 8 u of it less."""

    proof = "isometry: entries over the root of how often they are copied"
    affine = True
    helper = '''
def isometric_pad(x, padding, mode):
    """Copies around an image; each entry is first divided by the root of how often it comes."""
    wide = torch.promote_types(x.dtype, torch.float32)
    count, axes = torch.ones([], dtype=wide, device=x.device), len(padding) // 2
    for axis in range(axes):
        i = torch.arange(x.shape[-1 - axis], dtype=wide, device=x.device)
        sides = padding[2 * axis : 2 * axis + 2]
        more = [(i >= 1) * (i <= n) if mode == "reflect" else (i < 1) * n for n in sides]
        count = count * (torch.ones_like(i) + more[0] + more[1].flip(0)).reshape(-1, *[1] * axis)
    inverse = count.sqrt().reciprocal() * (1 - 2 * torch.finfo(x.dtype).eps)
    return F.pad(x * torch.where(count == 1, count, inverse).to(x.dtype), padding, mode)
'''

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)

    def rounding(self, site: Site) -> Rounding:
        """The factor, off by fewer than 8 roundings, and the product; one to spare."""
        return Rounding(10, 1.0)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        padding, mode = list(site.args["padding"]), site.args["mode"]
        if e.any_size:
            mask = _emitted_mask(e, x[0], padding, mode)
        else:
            mask = e.tensor(
                "mask", isometric_mask(torch.empty(site.shapes[0], device="cpu"), padding, mode)
            )
        scaled = e.node("Mul", [*x, mask], "scaled")
        pads = e.integers("pads", [0, 0, *padding[::2][::-1], 0, 0, *padding[1::2][::-1]])
        e.node("Pad", [scaled, pads], mode={"replicate": "edge"}.get(mode, mode))

    def source(self, site: Site, *x: str) -> str:
        return f"isometric_pad({x[0]}, {tuple(site.args['padding'])}, {site.args['mode']!r})"


def _emitted_mask(e: Any, x: str, padding: list[int], mode: str) -> str:
    """`isometric_mask` in ONNX, of an image of any size."""
    one, axes = e.number("one", 1.0), len(padding) // 2
    count, start, step = one, e.integer("start", 0), e.integer("step", 1)
    for axis in range(axes):
        place = 1 + axes - axis
        shape = e.node("Shape", [x], f"n{axis}", start=place, end=place + 1)
        size = e.node("Squeeze", [shape], f"size{axis}")
        ahead = e.node("Range", [start, size, step], f"ahead{axis}")
        last = e.node("Sub", [size, step], f"last{axis}")
        behind = e.node("Sub", [last, ahead], f"behind{axis}")
        left = _emitted_copies(e, f"left{axis}", ahead, padding[2 * axis], mode)
        right = _emitted_copies(e, f"right{axis}", behind, padding[2 * axis + 1], mode)
        copies = e.node("Add", [e.node("Add", [one, left], f"once{axis}"), right], f"line{axis}")
        if axis:
            others = e.integers(f"others{axis}", range(1, axis + 1))
            copies = e.node("Unsqueeze", [copies, others], f"column{axis}")
        count = e.node("Mul", [count, copies], f"count{axis}")
    inverse = e.node("Reciprocal", [e.node("Sqrt", [count], "root")], "inverse")
    below = e.node("Mul", [inverse, e.number("below", 1 - 2.0**-22)], "rounded")
    return e.node("Where", [e.node("Equal", [count, one], "single"), count, below], "mask")


def _emitted_copies(e: Any, side: str, places: str, padding: int, mode: str) -> str:
    """How often padding on one side copies each place, counted from there, as real numbers."""
    one = e.integer(f"{side}.one", 1)
    if mode == "replicate":
        first = e.node("Less", [places, one], f"{side}.first")
        times = e.number(f"{side}.times", float(padding))
        return e.node("Mul", [e.node("Cast", [first], f"{side}.cast", to=1), times], side)
    inside = e.node("GreaterOrEqual", [places, one], f"{side}.inside")
    most = e.integer(f"{side}.most", padding)
    near = e.node("LessOrEqual", [places, most], f"{side}.near")
    return e.node("Cast", [e.node("And", [inside, near], f"{side}.both")], side, to=1)
