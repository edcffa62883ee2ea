"""MaxMin: each pair of channels by its maximum and its minimum."""

from typing import Any, final

import torch
from torch import Tensor, fx, nn

from taut._torch_private import is_watched
from taut.linalg.derivatives import applied, keep
from taut.nn.activations._along import along
from taut.program import AbstractOp, Site, op

# The integer type for each size of a number in bytes.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@final
class MaxMin(nn.Module):
    r"""MaxMin: replace each pair of channels (first half with second half) by its max and min.

    :math:`y = (\max(a, b), \min(a, b))` for :math:`x = (a, b)` split in halves along the channels:
    :class:`GroupSort` of size 2 up to a fixed permutation of the channels (GroupSort pairs
    neighbours). Written with elementwise max and min, so that bound propagation tools can read it.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is a permutation, at
        ties too (torch halves the gradient of a tied maximum).
    Cost: two elementwise passes; one stored byte per pair for the backward pass.

    Inputs are `(batch, channels, *spatial)`, or have their channels along `dim`; an odd last
    channel does not change.

    Args:
        dim: the axis of the channels; -1 for tokens `(batch, tokens, features)`, -3 for an image
            without a batch.

    Reference:
        Anil et al. (2019), *Sorting out Lipschitz function approximation*, arXiv:1811.05381.

    Example:
        >>> MaxMin()(torch.tensor([[1.0, 2.0, 3.0, -4.0]]))
        tensor([[ 3.,  2.,  1., -4.]])
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self._dim = dim

    @property
    def dim(self) -> int:
        """The axis of the channels."""
        return self._dim

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation along its dimension."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return along(_eager, input, self._dim)
        if self._dim == 1:
            return _maxmin(input)
        return _maxmin(input.movedim(self._dim, 1)).movedim(1, self._dim)

    def extra_repr(self) -> str:
        """The axis, where it is not the first behind the batch."""
        return "" if self._dim == 1 else f"dim={self._dim}"


def _eager(x: Tensor) -> Tensor:
    if isinstance(x, fx.Proxy):
        return _maxmin(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return applied(_MaxMin, x)[0]
    return _sorted(x)


def _maxmin(x: Tensor) -> Tensor:
    """MaxMin without branches, for what is traced or compiled with its size unknown."""
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat((torch.maximum(a, b), torch.minimum(a, b), x[:, 2 * half :]), 1)


def _sorted(x: Tensor) -> Tensor:
    if is_watched(x):
        half = x.shape[1] // 2
        a, b = x[:, :half], x[:, half : 2 * half]
        return _joined(torch.maximum(a, b), torch.minimum(a, b), x)
    y = torch.empty_like(x)
    maxmin_into(y, x)
    return y


def maxmin_into(y: Tensor, x: Tensor) -> None:
    """Write MaxMin of `x`, with its channels along axis 1, to `y`."""
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    torch.maximum(a, b, out=y[:, :half])
    torch.minimum(a, b, out=y[:, half : 2 * half])
    if x.shape[1] % 2:
        y[:, -1:].copy_(x[:, -1:])


class _MaxMin(torch.autograd.Function):
    """MaxMin with a gradient that is one swap; the mask is an output so that it can be saved."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        half = x.shape[1] // 2
        return _sorted(x), x[:, :half] < x[:, half : 2 * half]

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        keep(ctx, output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (swapped,) = ctx.saved_tensors
        return _swapped(grad, swapped)

    @staticmethod
    def tangent(ctx, tangent: Tensor) -> tuple[Tensor, None]:
        return _swapped(tangent, *ctx.saved_tensors), None

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Tensor) -> tuple:
        x = args[0].movedim(in_dims[0], 0)
        outputs = applied(_MaxMin, x.flatten(0, 1))
        return tuple(y.unflatten(0, x.shape[:2]) for y in outputs), (0, 0)  # pyright: ignore[reportOptionalIterable]


def _swapped(x: Tensor, swapped: Tensor) -> Tensor:
    """Swap the pairs of channels that are `swapped`."""
    half = swapped.shape[1]
    if _plain(x):  # flip the bits that differ: exact, and faster than `where` on a CPU
        return _with_flipped_bits(x, swapped)
    a, b = x[:, :half], x[:, half : 2 * half]
    return _joined(torch.where(swapped, b, a), torch.where(swapped, a, b), x)


def _with_flipped_bits(x: Tensor, swapped: Tensor) -> Tensor:
    half, y = swapped.shape[1], torch.empty_like(x)
    numbers = _INTEGERS[x.element_size()]
    bits, flipped = x.view(numbers), y.view(numbers)
    a, b = bits[:, :half], bits[:, half : 2 * half]
    first, second = flipped[:, :half], flipped[:, half : 2 * half]
    torch.bitwise_xor(a, b, out=second).mul_(swapped)  # the bits to be flipped
    torch.bitwise_xor(a, second, out=first)
    second.bitwise_xor_(b)
    if x.shape[1] % 2:
        y[:, -1:].copy_(x[:, -1:])
    return y


def _plain(x: Tensor) -> bool:
    """Whether x is plain numbers on a CPU: not recorded, traced, or batched."""
    if is_watched(x) or torch.is_grad_enabled():
        return False
    return x.is_cpu and not x.is_neg()


def _joined(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
    """Both halves of the channels, and the last one of `x` if it is odd."""
    # With an empty part `cat` does not keep channels last in memory.
    return torch.cat((first, second, *([x[:, -1:]] if x.shape[1] % 2 else [])), 1)


@op(MaxMin)
class _MaxMinOp(AbstractOp):
    proof = "sorts channels: a permutation at each input"
    exact = True
    helper = '''
def maxmin(x):
    """The larger of each pair of channels, then the smaller; the halves are paired."""
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b), x[:, 2 * half :]], 1)
'''

    def follows(self, module: nn.Module) -> bool:
        return isinstance(module, MaxMin) and module.dim != 1

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        channels = site.shape[0]
        half = channels // 2
        if not half:
            e.node("Identity", x)
            return
        parts = [e.channels("a", x[0], 0, half), e.channels("b", x[0], half, 2 * half)]
        joined = [e.node("Max", parts, "max"), e.node("Min", parts, "min")]
        joined += [e.channels("rest", x[0], 2 * half, channels)] if channels % 2 else []
        e.node("Concat", joined, axis=1)

    def source(self, site: Site, *x: str) -> str:
        return f"maxmin({x[0]})"
