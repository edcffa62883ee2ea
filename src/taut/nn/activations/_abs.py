"""Absolute values of some of the channels."""

from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import axis, is_number
from taut._torch_private import inside_function_mode
from taut.linalg.derivatives import applied, keep
from taut.nn.activations._along import along

fx.wrap("_abs")  # it counts channels, which a symbolic trace does not know


@final
class Abs(nn.Module):
    r"""Absolute value of the first `round(beta * c)` of c channels; the others are unchanged.

    The cheapest activation that preserves gradient norms. With `beta=0.5` it is :class:`MaxMin` in
    another orthonormal basis: in :math:`(a \pm b) / \sqrt 2`, :math:`(\max, \min)` of a pair is
    :math:`(a + b, |a - b|) / \sqrt 2`.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is diagonal with entries
        1 and -1, at 0 too. Nothing is rounded.
    Cost: one elementwise pass; one stored byte for each absolute value for the backward pass.

    Inputs are `(batch, channels, *spatial)`, or have their channels along `dim`.

    Args:
        beta: share of the channels, from 0 to 1; a half is rounded to the even number.
        dim: the axis of the channels; -1 for tokens `(batch, tokens, features)`, -3 for an image
            without a batch.

    Raises:
        ValueError: if `beta` is not between 0 and 1.

    Reference:
        beta-Abs, as LipNeXt uses it; absolute values by Anil et al. (2019), *Sorting out Lipschitz
        function approximation*, arXiv:1811.05381.

    Example:
        >>> Abs(0.5)(torch.tensor([[-1.0, 2.0, -3.0, 4.0]]))
        tensor([[ 1.,  2., -3.,  4.]])
    """

    def __init__(self, beta: float = 1.0, dim: int = 1) -> None:
        super().__init__()
        if not (is_number(beta) and 0 <= beta <= 1):
            raise ValueError(f"`beta` must be a number from 0 to 1; got {beta!r}.")
        self.beta = float(beta)
        self.dim = axis("dim", dim)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation along its dimension."""
        return along(_abs, input, self.dim, self.beta)

    def extra_repr(self) -> str:
        """The share, and the axis where it is not the first behind the batch."""
        return f"beta={self.beta}" + ("" if self.dim == 1 else f", dim={self.dim}")


def _abs(x: Tensor, beta: float) -> Tensor:
    count = round(beta * x.shape[1])
    if torch.is_grad_enabled() and x.requires_grad and not inside_function_mode():
        return applied(_Abs, x, count)[0]
    return _by_slopes(x, count)


def _by_slopes(x: Tensor, count: int) -> Tensor:
    """A PReLU whose slopes below 0 are -1 for the first channels and 1 for the others."""
    places = torch.arange(x.shape[1], device=x.device)
    return F.prelu(x, 1 - 2 * (places < count).to(x.dtype))


def abs_into(y: Tensor, x: Tensor, beta: float) -> None:
    """Write Abs of `x`, with its channels along axis 1, to `y`."""
    count = round(beta * x.shape[1])
    torch.abs(x[:, :count], out=y[:, :count])
    y[:, count:].copy_(x[:, count:])


class _Abs(torch.autograd.Function):
    """With a backward that changes signs; that of PReLU computes gradients of slopes, too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return _by_slopes(x, count), x[:, :count] > 0

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        keep(ctx, output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _signed(grad, *ctx.saved_tensors), None

    @staticmethod
    def tangent(ctx, tangent: Tensor, _: Any) -> tuple[Tensor, None]:
        return _signed(tangent, *ctx.saved_tensors), None


def _signed(x: Tensor, positive: Tensor) -> Tensor:
    """Other signs in the first channels where they are not `positive`."""
    first, others = x.tensor_split([positive.shape[1]], 1)
    return torch.cat((2 * (first * positive) - first, others), 1)
