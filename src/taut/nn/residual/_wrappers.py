r"""Residual blocks around any module, 1-Lipschitz where the module is."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import axis
from taut._sharding import draws
from taut.nn.residual._convex import ConvexConcat, ConvexSum, below_one


def as_module(f: Any) -> nn.Module:
    """The argument `f`, refused if it is no module."""
    if not isinstance(f, nn.Module):
        kind = f.__name__ if isinstance(f, type) else type(f).__name__
        raise ValueError(f"`f` must be a torch.nn.Module; got {kind}.")
    return f


def _check_beside(x: Tensor, y: Tensor, dim: int) -> None:
    """Refuse values that cannot be concatenated; the first axis, of samples, is not looked at."""
    apart = {0, dim % x.dim()}
    sizes = [[n for i, n in enumerate(value.shape) if i not in apart] for value in (x, y)]
    if x.dim() != y.dim() or sizes[0] != sizes[1]:
        raise ValueError(
            f"`f` must keep the sizes of all axes but `dim`={dim}; got {tuple(y.shape)} for "
            f"{tuple(x.shape)}."
        )


def check_shape(x: Tensor, y: Tensor) -> None:
    """Refuse a branch that changes the shape of its input."""
    if x.shape != y.shape:
        raise ValueError(
            f"`f` must keep the shape of its input; got {tuple(y.shape)} for {tuple(x.shape)}."
        )


@final
class ConvexResidual(nn.Module):
    r"""Residual block :math:`a x + (1 - a) f(x)` with learnable a in (0, 1).

    Guarantee: 1-Lipschitz in l2 if f is; max(1, L) if f is L-Lipschitz.
    Cost: f, two products and a sum.

    Args:
        f: any module that keeps the shape of its input.
        device, dtype: of the weights of the sum.

    Raises:
        ValueError: if f is no module; (forward) if f changes the shape.

    Example:
        >>> ConvexResidual(nn.Flatten())(torch.ones(1, 2)).detach().round(decimals=4)
        tensor([[1., 1.]])
    """

    def __init__(self, f: nn.Module, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.f, self.join = as_module(f), ConvexSum(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Equal weights: a = 1/2. The module f stays as it is."""
        self.join.reset_parameters()

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Add both branches."""
        y = self.f(input)
        check_shape(input, y)
        return self.join(input, y)


@final
class ConcatResidual(nn.Module):
    r"""Residual block that concatenates :math:`\cos t \, x` and :math:`\sin t \, f(x)`.

    The angle t is learnable.

    Guarantee: 1-Lipschitz in l2 if f is, and an isometry if f is one: then
        :math:`\cos^2 t |\Delta x|^2 + \sin^2 t |\Delta f|^2 = |\Delta x|^2`. Squares of the weights
        sum to 1 less 8 units of the last place.
    Cost: f, two products and a copy.

    Args:
        f: any module; its output has the shape of its input but along `dim`.
        dim: the axis along which both are concatenated, that of the channels by default.
        device, dtype: of the weights of the parts.

    Raises:
        ValueError: if f is no module; (forward) if f changes the size of another axis.

    Example:
        >>> ConcatResidual(nn.Identity())(torch.ones(1, 2)).detach().round(decimals=4)
        tensor([[0.7071, 0.7071, 0.7071, 0.7071]])
    """

    def __init__(
        self,
        f: nn.Module,
        dim: int = 1,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.f, self.join = as_module(f), ConvexConcat(dim=dim, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Equal weights: t = pi / 4. The module f stays as it is."""
        self.join.reset_parameters()

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Concatenate both branches."""
        y = self.f(input)
        _check_beside(input, y, self.join.dim)
        return self.join(input, y)


@final
class ReZeroResidual(nn.Module):
    r"""The residual block :math:`(x + \alpha f(x)) / (1 + |\alpha|)`, which starts as the identity.

    Guarantee: 1-Lipschitz in l2 if f is; max(1, L) if f is L-Lipschitz. With
        :math:`\alpha = 0`, its start, it is the identity, but for 8 units of the last place.
    Cost: f, two products and a sum.

    Args:
        f: any module that keeps the shape of its input.
        device, dtype: of the scalar alpha.

    Raises:
        ValueError: if f is no module; (forward) if f changes the shape.

    Reference:
        Bachlechner et al. (2020), *ReZero is all you need*; arXiv:2003.04887. The division, which
        the bound needs, is ours.

    Example:
        >>> ReZeroResidual(nn.ReLU())(torch.tensor([[-1.0, 2.0]])).detach().round(decimals=4)
        tensor([[-1.,  2.]])
    """

    def __init__(self, f: nn.Module, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.f = as_module(f)
        self.alpha = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.reset_parameters()

    @draws
    def reset_parameters(self) -> None:
        """Alpha is 0. The module f stays as it is."""
        nn.init.zeros_(self.alpha)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Add both branches."""
        y = self.f(input)
        check_shape(input, y)
        scale = below_one(self.alpha) / (1 + self.alpha.abs())
        return input * scale + y * (self.alpha * scale)


@final
class SplitResidual(nn.Module):
    r"""Residual block :math:`(x_1, f(x_2))` on the two halves of the channels, without scaling.

    Guarantee: 1-Lipschitz in l2 if f is, an isometry if f is one, and invertible if f is:
        :math:`|\Delta y|^2 = |\Delta x_1|^2 + |\Delta f(x_2)|^2`. A block whose halves never change
        places leaves x_1 as it is: mix channels between blocks, by an orthogonal convolution, say.
    Cost: f on half of the channels, and a copy.

    Args:
        f: any module that keeps the sizes of all axes but `dim`.
        dim: the axis of the channels; with an odd number of them, f reads the smaller part.

    Raises:
        ValueError: if f is no module; (forward) if there are less than two channels, or f changes
            the size of another axis.

    Reference:
        Dinh et al. (2014), *NICE*, section 3.2; arXiv:1410.8516, whose coupling this is without the
        sum.

    Example:
        >>> SplitResidual(nn.ReLU())(torch.tensor([[-1.0, -2.0]]))
        tensor([[-1.,  0.]])
    """

    def __init__(self, f: nn.Module, dim: int = 1) -> None:
        super().__init__()
        self.f, self.dim = as_module(f), axis("dim", dim)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply f to the second half of the channels."""
        if not -input.dim() <= self.dim < input.dim():
            raise ValueError(
                f"`dim` must be an axis of the input; got {self.dim}, shape {tuple(input.shape)}."
            )
        channels = int(input.shape[self.dim])
        if channels < 2:
            raise ValueError(f"`input` must have at least 2 channels; got {channels}.")
        kept = channels - channels // 2
        first = input.narrow(self.dim, 0, kept)
        second = input.narrow(self.dim, kept, channels - kept)
        y = self.f(second)
        _check_beside(second, y, self.dim)
        return torch.cat([first, y], self.dim)

    def extra_repr(self) -> str:
        """The axis, where it is not the first behind the batch."""
        return "" if self.dim == 1 else f"dim={self.dim}"
