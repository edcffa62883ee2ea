"""OSSN: one-sided spectral normalisation."""

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._reshaped import (
    as_kernel,
    check_counts,
    folded,
    reshaped_sides,
    torus_of,
)

# A direction that has come to one frequency may stay there for good: all positions alike give all
# positions alike, to the last bit. So much of a fixed vector of all frequencies is mixed in.
_NUDGE = 1e-3
_CORRELATIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@final
class OSSN(AbstractParametrization):
    r"""Kernel divided by an estimate of its operator's norm, where that exceeds 1.

    .. math:: W = K / \max(1, \hat\sigma), \qquad \hat\sigma = \langle u, K v \rangle

    with unit vectors u and v from power iteration on the convolution itself, stride included, on a
    torus. They are kept as buffers and held constant for the
    gradient: then :math:`\hat\sigma` is linear in K, and what is kept of u is its `slope`
    :math:`\partial \hat\sigma / \partial K`. A forward pass moves nothing: call
    :func:`taut.update_` after each optimiser step.

    Guarantee: none. Power iteration estimates from below, so that the norm may exceed 1, and more
        so where the weight has changed since the last update, or the input has another size.
    Cost: one product of entries per read; per update `2 * iterations + 2` convolutions of a single
        input.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis, at most three axes; `()` for a matrix.
        torus: output positions per axis, at least as many as the kernel (over the stride) has
            taps; None is four for each tap.
        iterations: steps of power iteration per update; the paper takes 10.
        options: stride, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if there are more than three axes, or a count is below 1.

    Reference:
        Gouk et al. (2018), *Regularisation of Neural Networks by Enforcing Lipschitz Continuity*,
        arXiv:1804.04368; as in Li et al. (2019), arXiv:1911.00937, section 5. Theirs iterates
        within the training forward, on a torus of the size of the input.

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
        check_counts(torus=torus, iterations=iterations)
        if len(kernel_size) > len(_CORRELATIONS):
            raise ValueError(f"`kernel_size` must have at most 3 axes; got {kernel_size}.")
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.iterations = iterations
        raw = self.raw_matrix.detach()
        size = (1, self.folded_channels, *torus_of(self, torus))
        self.register_buffer("direction", torch.randn(size, device=raw.device, dtype=raw.dtype))
        shape = as_kernel(self, raw).shape  # as it is laid out there, safetensors refuses it
        self.register_buffer("slope", torch.zeros(shape, device=raw.device, dtype=raw.dtype))
        self.update_(0)

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The reshaped kernel before its division, the longer side first."""
        return {"raw_matrix": reshaped_sides(self)}

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        kernel = as_kernel(self, self.raw_matrix)
        return kernel / (kernel * self.slope).sum().clamp(min=1)

    @torch.no_grad()
    def update_(self, step: int) -> None:
        """Take `iterations` steps of power iteration from where the last update ended."""
        del step
        kernel = as_kernel(self, self.raw_matrix)
        # The vectors depend on the kernel's direction alone; of its size, squares might overflow.
        tiny = torch.finfo(kernel.dtype).tiny
        kernel = folded(self, kernel / kernel.abs().amax().clamp(min=tiny))
        taps, adjoint = kernel.shape[2:], _adjoint(kernel)
        v = _unit(self.direction + _NUDGE * _unit(_chirp(self.direction)))
        for _ in range(self.iterations):
            u = _unit(_correlated(_wrapped_after(v, taps), kernel))
            v = _unit(_correlated(_wrapped_before(u, taps), adjoint), otherwise=v)
        x = _wrapped_after(v, taps)
        u = _unit(_correlated(x, kernel))
        slope = _correlated(x.transpose(0, 1), u.transpose(0, 1)).transpose(0, 1)
        self.direction.copy_(v)
        self.slope.copy_(self.unfold(slope))


def _correlated(x: Tensor, kernel: Tensor) -> Tensor:
    r""":math:`y_t = \sum_j K_j x_{t+j}` where all of x is there."""
    return x @ kernel.mT if x.ndim == 2 else _CORRELATIONS[x.ndim - 2](x, kernel)


def _adjoint(kernel: Tensor) -> Tensor:
    """The kernel of the transposed operator, whose taps reach back instead of ahead."""
    return kernel.transpose(0, 1).flip(tuple(range(2, kernel.ndim))).contiguous()


def _wrapped_after(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    for axis, k in enumerate(taps, 2):
        x = torch.cat((x, x.narrow(axis, 0, k - 1)), axis)
    return x


def _wrapped_before(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    for axis, k in enumerate(taps, 2):
        x = torch.cat((x.narrow(axis, x.shape[axis] - k + 1, k - 1), x), axis)
    return x


def _chirp(like: Tensor) -> Tensor:
    """A fixed vector that has a part in every frequency and channel."""
    places = torch.arange(like.numel(), dtype=torch.float64, device=like.device)
    return places.square().cos().reshape(like.shape).to(like.dtype)


def _unit(x: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """The vector of norm 1, or another one where it is zero or not finite; zero by default."""
    norm = x.norm()
    fallback = torch.zeros_like(x) if otherwise is None else otherwise
    return torch.where((norm > 0) & norm.isfinite(), x / norm, fallback)
