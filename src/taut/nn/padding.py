"""Padding that keeps an orthogonal kernel an orthogonal (or 1-Lipschitz) operator."""

from typing import NamedTuple, final

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]  # top, bottom, left, right


class Pads(NamedTuple):
    """How an input is padded before a valid convolution; each pair is (rows, columns)."""

    extend: Pair
    left: Pair
    right: Pair


def make_pads(
    input_size: Pair, kernel_size: Pair, stride: Pair, padding: str | Pair, mode: str
) -> Pads:
    """The pads of a layer for one input size.

    `"same"` gives `ceil(n / stride)` outputs. Where the stride does not divide the size, a
    circular layer first extends the input by zeros to the next multiple: there is no orthogonal
    strided convolution on the torus of the size itself.

    Example:
        >>> make_pads((9, 8), (4, 4), (2, 2), "same", "circular")
        Pads(extend=(1, 0), left=(1, 1), right=(1, 1))
    """
    axes = range(2)
    extend = tuple(-input_size[i] % stride[i] for i in axes)
    if isinstance(padding, str):
        total = tuple(kernel_size[i] - stride[i] for i in axes)
        left = (total[0] // 2, total[1] // 2)
        return Pads((extend[0], extend[1]), left, (total[0] - left[0], total[1] - left[1]))
    if mode == "zeros":
        return Pads((0, 0), padding, padding)
    return Pads((extend[0], extend[1]), padding, padding)


def pad(x: Shaped[Tensor, "*b h w"], pads: Pads, mode: str) -> Shaped[Tensor, "*b h2 w2"]:
    """Apply the pads: zeros first for `extend`, then zeros or the other side of the torus.

    Example:
        >>> pad(torch.tensor([[[1.0, 2.0]]]), Pads((0, 0), (0, 1), (0, 1)), "circular")
        tensor([[[2., 1., 2., 1.]]])
    """
    (top, left), (bottom, right) = pads.left, pads.right
    if mode == "zeros":
        return _constant_pad(x, left, right + pads.extend[1], top, bottom + pads.extend[0])
    x = _constant_pad(x, 0, pads.extend[1], 0, pads.extend[0])
    sides = (top, bottom, left, right)
    height, width = x.shape[-2:]
    if not any(sides):
        return x
    if max(top, bottom) > height or max(left, right) > width:
        return _wrap_repeatedly(x, sides)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Wrap.apply(x, sides)  # pyright: ignore[reportReturnType]
    return F.pad(x, (left, right, top, bottom), "circular")


@final
class PadToMultiple2d(nn.Module):
    r"""Add zeros below and on the right until `multiple` divides height and width.

    What a strided layer does to an input whose size its stride does not divide; in frozen models it
    stands in front of the plain convolution.

    Guarantee: an isometry of l2, linear.
    Cost: one copy of the input; none where nothing is to be added.

    Inputs are `(batch, c, h, w)` or `(c, h, w)`.

    Args:
        multiple: one number, or a pair (rows, columns).

    Raises:
        ValueError: if `multiple` is not made of positive integers.

    Example:
        >>> PadToMultiple2d(4)(torch.zeros(1, 3, 5, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, multiple: int | Pair) -> None:
        super().__init__()
        pair = multiple if isinstance(multiple, tuple) else (multiple, multiple)
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in pair)
        if len(pair) != 2 or not whole or min(pair) < 1:
            raise ValueError(
                f"`multiple` must be a positive integer or a pair of them; got {multiple}."
            )
        self.multiple = pair

    def forward(self, x: Shaped[Tensor, "*b h w"]) -> Shaped[Tensor, "*b h2 w2"]:
        """Pad."""
        bottom, right = -x.shape[-2] % self.multiple[0], -x.shape[-1] % self.multiple[1]
        return _constant_pad(x, 0, right, 0, bottom)

    def extra_repr(self) -> str:
        """The multiple."""
        return f"multiple={self.multiple}"


def _constant_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    return F.pad(x, (left, right, top, bottom)) if left or right or top or bottom else x


def _wrap_repeatedly(x: Tensor, sides: Sides) -> Tensor:
    """Circular padding by more than the size of the input."""
    top, bottom, left, right = sides
    height, width = x.shape[-2:]
    rows = torch.arange(-top, height + bottom, device=x.device) % height
    columns = torch.arange(-left, width + right, device=x.device) % width
    return x.index_select(-2, rows).index_select(-1, columns)


def _channels_last(x: Tensor) -> bool:
    """Whether channels lie last in memory, of tensors inside `torch.func.vmap` too."""
    return x.ndim == 4 and x.stride(1) == 1


def _new_empty(x: Tensor, size: Pair) -> Tensor:
    """A tensor of another height and width that lies in memory as `x` does."""
    if _channels_last(x):
        return x.new_empty(x.shape[0], *size, x.shape[1]).movedim(-1, -3)
    return x.new_empty(*x.shape[:-2], *size)


def _clone(x: Tensor, *, channels_last: bool) -> Tensor:
    if channels_last:
        return x.movedim(-3, -1).clone(memory_format=torch.contiguous_format).movedim(-1, -3)
    return x.clone(memory_format=torch.contiguous_format)


class _Wrap(torch.autograd.Function):
    """Circular padding with one copy forwards and one backwards; torch's takes several."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, sides: Sides) -> Tensor:
        top, bottom, left, right = sides
        height, width = x.shape[-2:]
        y = _new_empty(x, (top + height + bottom, left + width + right))
        inner = y[..., top : top + height, :]
        inner[..., left : left + width] = x
        inner[..., :left] = x[..., width - left :]
        inner[..., left + width :] = x[..., :right]
        y[..., :top, :] = inner[..., height - top :, :]
        y[..., top + height :, :] = inner[..., :bottom, :]
        return y

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Sides], output: Tensor) -> None:
        ctx.sides = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Unwrap.apply(grad, ctx.sides), None  # pyright: ignore[reportReturnType]


class _Unwrap(torch.autograd.Function):
    """The adjoint of `_Wrap`: what was copied round is added up."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, sides: Sides) -> Tensor:
        top, bottom, left, right = sides
        height, width = y.shape[-2] - top - bottom, y.shape[-1] - left - right
        last = _channels_last(y)
        rows = _clone(y[..., top : top + height, :], channels_last=last)
        rows[..., height - top :, :] += y[..., :top, :]
        rows[..., :bottom, :] += y[..., top + height :, :]
        x = _clone(rows[..., left : left + width], channels_last=last)
        x[..., width - left :] += rows[..., :left]
        x[..., :right] += rows[..., left + width :]
        return x

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Sides], output: Tensor) -> None:
        ctx.sides = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Wrap.apply(grad, ctx.sides), None  # pyright: ignore[reportReturnType]
