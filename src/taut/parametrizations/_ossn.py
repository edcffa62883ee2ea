"""OSSN: one-sided spectral normalisation."""

import math
from typing import Any, final

import torch
from torch import Tensor

from taut._arguments import whole
from taut.linalg.geometry import CONVOLUTIONS
from taut.parametrizations._base import MISS, AbstractParametrization
from taut.parametrizations._reshaped import (
    as_kernel,
    as_matrix,
    folded,
    reshaped_sides,
    torus_of,
    unfolded,
)

# Power iteration cannot leave a frequency: a vector with all positions equal keeps them equal, to
# the last bit. Each update mixes in this much of a fixed vector of all frequencies.
_NUDGE = 1e-3


@final
class OSSN(AbstractParametrization):
    r"""Free kernel divided by an estimate of its spectral norm, if that exceeds 1.

    .. math:: W = K / \max(1, \hat\sigma), \qquad \hat\sigma = \langle u, K v \rangle

    with unit vectors u and v from power iteration on the convolution itself, stride included, on a
    periodic domain. They are constant for the gradient, so :math:`\hat\sigma` is linear in K; the
    buffers are v and the `slope` :math:`\partial \hat\sigma / \partial K`. A forward pass does not
    change them: call :func:`taut.update_` after each optimiser step.

    Guarantee: none. Power iteration estimates from below, so the norm may exceed 1, and more so if
        the weight has changed since the last update, or the input has another size.
    Cost: one product of entries per read; per update `2 * iterations + 2` convolutions of a single
        input.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis, at most three axes; `()` for a matrix.
        torus: output positions per axis, at least the taps of the kernel (over the stride); None
            for four per tap.
        iterations: steps of power iteration per update; the paper takes 10.
        options: stride, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if there are more than three axes, or a count is below 1.

    Reference:
        Gouk et al. (2018), *Regularisation of Neural Networks by Enforcing Lipschitz Continuity*,
        arXiv:1804.04368; as in Li et al. (2019), arXiv:1911.00937, section 5. Theirs iterates
        within the training forward, on a periodic domain of the size of the input.

    Example:
        >>> layer = taut.nn.Conv2d(3, 8, 3, parametrization=OSSN)
        >>> float(taut.lipschitz_bound(layer, (3, 16, 16))) < 1.5
        True
    """

    guarantee = "none"
    reference = "Gouk et al. 2018, arXiv:1804.04368"
    raw_matrix: Tensor
    direction: Tensor
    slope: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        torus: int | None = None,
        iterations: int = 10,
        **options: Any,
    ) -> None:
        # Set before the base class asks for the shapes of the buffers.
        self.torus = None if torus is None else whole("torus", torus)
        self.iterations = whole("iterations", iterations)
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The reshaped kernel before its division, the longer side first."""
        return {"raw_matrix": reshaped_sides(self)}

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The unit vector v on the torus, and the slope of the estimate."""
        channels = self.in_channels * math.prod(self.stride)
        return {
            "direction": (1, channels, *torus_of(self, self.torus)),
            "slope": (self.out_channels, self.in_channels // self.groups, *self.kernel_size),
        }

    def check_sizes(self) -> None:
        """Kernels have at most 3 axes."""
        if len(self.kernel_size) > len(CONVOLUTIONS):
            raise ValueError(f"`kernel_size` must have at most 3 axes; got {self.kernel_size}.")

    def reset_parameters(self) -> None:
        """Draw the raw matrix and the direction anew, and estimate the norm."""
        super().reset_parameters()
        self.direction.normal_()
        self.update_(0)

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        kernel = as_kernel(self, self.raw_matrix)
        return kernel / (kernel * self.slope).sum().clamp(min=1)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The kernel itself.

        Raises:
            ValueError: if its norm is above 1 by the last direction; the next update may find more.
        """
        estimate = abs(float((weight * self.slope.double()).sum()))
        if not estimate <= 1 + MISS * torch.finfo(self.slope.dtype).eps:
            raise ValueError(f"`weight` must have a norm of at most 1; got {estimate:.3g} or more.")
        return {"raw_matrix": as_matrix(self, weight)}

    @torch.no_grad()
    def update_(self, step: int) -> None:
        """Take `iterations` steps of power iteration from the last direction."""
        del step
        kernel = as_kernel(self, self.raw_matrix)
        # The vectors do not depend on the scale of the kernel, whose squares might overflow.
        tiny = torch.finfo(kernel.dtype).tiny
        kernel = folded(self, kernel / kernel.abs().amax().clamp(min=tiny))
        taps, groups, adjoint = kernel.shape[2:], self.groups, _adjoint(kernel, self.groups)
        v = _unit(self.direction + _NUDGE * _unit(_chirp(self.direction)))
        for _ in range(self.iterations):
            u = _unit(_correlated(_wrapped_after(v, taps), kernel, groups))
            v = _unit(_correlated(_wrapped_before(u, taps), adjoint, groups), otherwise=v)
        x = _wrapped_after(v, taps)
        u = _unit(_correlated(x, kernel, groups))
        pairs = zip(x.chunk(groups, 1), u.chunk(groups, 1), strict=True)
        slopes = [_correlated(a.transpose(0, 1), b.transpose(0, 1), 1) for a, b in pairs]
        self.direction.copy_(v)
        self.slope.copy_(unfolded(self, torch.cat([s.transpose(0, 1) for s in slopes])))


def _correlated(x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    r""":math:`y_t = \sum_j K_j x_{t+j}` where all taps are inside x."""
    if x.ndim == 2:
        rows = torch.einsum(
            "bgi,goi->bgo", x.unflatten(1, (groups, -1)), kernel.unflatten(0, (groups, -1))
        )
        return rows.flatten(1)
    return CONVOLUTIONS[x.ndim - 2](x, kernel, groups=groups)


def _adjoint(kernel: Tensor, groups: int) -> Tensor:
    """The kernel of the adjoint, whose taps reach back instead of ahead."""
    swapped = kernel.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return swapped.flip(tuple(range(2, kernel.ndim))).contiguous()


def _wrapped_after(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    for axis, k in enumerate(taps, 2):
        x = torch.cat((x, x.narrow(axis, 0, k - 1)), axis)
    return x


def _wrapped_before(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    for axis, k in enumerate(taps, 2):
        x = torch.cat((x.narrow(axis, x.shape[axis] - k + 1, k - 1), x), axis)
    return x


def _chirp(like: Tensor) -> Tensor:
    """A fixed vector with a component at every frequency and channel."""
    places = torch.arange(like.numel(), dtype=torch.float64, device=like.device)
    return places.square().cos().reshape(like.shape).to(like.dtype)


def _unit(x: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """The vector at norm 1, or `otherwise` (zero) if it is zero or not finite."""
    norm = x.norm()
    fallback = torch.zeros_like(x) if otherwise is None else otherwise
    return torch.where((norm > 0) & norm.isfinite(), x / norm, fallback)
