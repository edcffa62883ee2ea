"""Activations that keep the norm of gradients."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""A type of integers for each size of a number in bytes."""


@final
class MaxMin(nn.Module):
    r"""Replace each pair of channels (the first half against the second) by its max and its min.

    :math:`y = (\max(a, b), \min(a, b))` for :math:`x = (a, b)` split in halves along the channels:
    :class:`GroupSort` of size 2 up to a fixed permutation of the channels (GroupSort pairs
    neighbours). Written with elementwise max and min, so that bound propagation tools can read it.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is a permutation, at
        ties too (torch halves the gradient of a tied maximum).
    Cost: two elementwise passes; one stored byte per pair for the backward pass.

    Inputs are `(batch, channels, *spatial)`; an odd last channel is passed on.

    Reference:
        Anil et al. (2019), *Sorting out Lipschitz function approximation*, arXiv:1811.05381.

    Example:
        >>> MaxMin()(torch.tensor([[1.0, 2.0, 3.0, -4.0]]))
        tensor([[ 3.,  2.,  1., -4.]])
    """

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
        """Apply the activation along dimension 1."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _MaxMin.apply(x)[0]  # pyright: ignore[reportOptionalSubscript]
        return _maxmin(x)


def _maxmin(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat((torch.maximum(a, b), torch.minimum(a, b), x[:, 2 * half :]), 1)


class _MaxMin(torch.autograd.Function):
    """MaxMin with a gradient that is one swap; the mask is an output so that it can be saved."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        half = x.shape[1] // 2
        a, b = x[:, :half], x[:, half : 2 * half]
        return _joined(torch.maximum(a, b), torch.minimum(a, b), x), a >= b

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (kept,) = ctx.saved_tensors
        return _swapped(grad, kept)

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Tensor) -> tuple:
        x = args[0].movedim(in_dims[0], 0)
        outputs = _MaxMin.apply(x.flatten(0, 1))
        return tuple(y.unflatten(0, x.shape[:2]) for y in outputs), (0, 0)  # pyright: ignore[reportOptionalIterable]


def _swapped(x: Tensor, kept: Tensor) -> Tensor:
    """Swap pairs of channels that are not `kept`."""
    half = kept.shape[1]
    if _plain(x):  # flip the bits that differ: exact, and selecting is slow on a CPU
        bits = x.view(_INTEGERS[x.element_size()])
        a, b = bits[:, :half], bits[:, half : 2 * half]
        differing = (a ^ b) * ~kept
        return _joined(a ^ differing, b ^ differing, bits).view(x.dtype)
    a, b = x[:, :half], x[:, half : 2 * half]
    return _joined(torch.where(kept, a, b), torch.where(kept, b, a), x)


def _plain(x: Tensor) -> bool:
    """Whether x is numbers in the memory of a CPU: nothing that records, traces or batches."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    batched = is_legacy_batchedtensor(x) or peek_interpreter_stack() is not None
    return x.is_cpu and not x.is_neg() and not batched


def _joined(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
    """Both halves of the channels and an odd last one of `x`."""
    # Beside an empty part `cat` would not keep channels last in memory.
    return torch.cat((first, second, *([x[:, -1:]] if x.shape[1] % 2 else [])), 1)


@final
class GroupSort(nn.Module):
    r"""Sort each group of neighbouring channels in ascending order.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is a permutation.
    Cost: one sort of `group_size` values per group.

    Inputs are `(batch, channels, *spatial)`; channels left over by the group size are passed on.

    Args:
        group_size: channels per group.

    Raises:
        ValueError: if `group_size` is not a positive integer.

    Reference:
        Anil et al. (2019), *Sorting out Lipschitz function approximation*, arXiv:1811.05381.

    Example:
        >>> GroupSort(3)(torch.tensor([[3.0, 1.0, 2.0, 9.0, 8.0, 7.0]]))
        tensor([[1., 2., 3., 7., 8., 9.]])
    """

    def __init__(self, group_size: int) -> None:
        super().__init__()
        if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
            raise ValueError(f"`group_size` must be a positive integer; got {group_size}.")
        self.group_size = group_size

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
        """Apply the activation along dimension 1."""
        whole = x.shape[1] - x.shape[1] % self.group_size
        groups = x[:, :whole].unflatten(1, (-1, self.group_size))
        return torch.cat((groups.sort(dim=2).values.flatten(1, 2), x[:, whole:]), 1)

    def extra_repr(self) -> str:
        """The group size."""
        return f"group_size={self.group_size}"
