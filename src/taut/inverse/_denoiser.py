"""A denoiser that is firmly nonexpansive at every noise level."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import positive, whole
from taut.nn import Averaged, Conv2d, MaxMin
from taut.parametrizations import BCOP

__all__ = ["Denoiser", "FixedNoise", "conv_net"]


@final
class Denoiser(nn.Module):
    r"""A firmly nonexpansive denoiser, called with an image and its noise level.

    .. math::
        D_\sigma(x) = r D(x / r), \quad D(x) = \tfrac12 (x + N(x)), \quad r = \sigma / \sigma_0

    N is the net, nearly: see :class:`taut.nn.Averaged`. Scaling an image and undoing it keeps how
    averaged a map is, so that one net serves every noise level; it reads images whose noise always
    has the level :math:`\sigma_0`.

    Guarantee: firmly nonexpansive in l2 at each noise level, and so is the residual
        :math:`x - D_\sigma(x)`, if :func:`taut.lipschitz_bound` of the net is at most
        :math:`1 + 2^{-13}`; :func:`averagedness` of `FixedNoise(denoiser, sigma)` proves it for the
        weights as they are.
    Cost: the net, and four products.

    The interface is that of `deepinv.models.Denoiser`.

    Args:
        net: any module that keeps the shape of its input, such as :func:`conv_net`.
        sigma: :math:`\sigma_0`, at which the net reads its input unscaled.

    Raises:
        ValueError: if the net is no module or `sigma` is not a positive number; (forward) if the
            noise level is no tensor and not a positive number.

    Example:
        >>> denoiser = Denoiser(conv_net(1, width=8, depth=3))
        >>> denoiser(torch.zeros(2, 1, 5, 6), 0.2).shape
        torch.Size([2, 1, 5, 6])
        >>> taut.inverse.averagedness(FixedNoise(denoiser, 0.2), (1, 5, 6))
        0.5
    """

    def __init__(self, net: nn.Module, sigma: float = 0.1) -> None:
        super().__init__()
        self.averaged, self.sigma = Averaged(net), positive("sigma", sigma)

    def forward(self, x: Float[Tensor, "..."], sigma: float | Tensor) -> Float[Tensor, "..."]:
        """Denoise; a tensor of noise levels has one for all images, or one for each."""
        if isinstance(sigma, Tensor):
            each = (-1, *[1] * (x.dim() - 1)) if sigma.numel() > 1 else ()
            ratio = sigma.to(x).reshape(each) / self.sigma
        else:
            ratio = positive("sigma", sigma) / self.sigma
        return self.averaged(x / ratio) * ratio

    def extra_repr(self) -> str:
        """The noise level of the net."""
        return f"sigma={self.sigma}"


@final
class FixedNoise(nn.Module):
    """A denoiser at one noise level: a module of one input, to bound, freeze and export.

    Args:
        denoiser: called with an image and a noise level.
        sigma: the noise level.

    Raises:
        ValueError: if the denoiser is no module or the noise level is not a positive number.

    Example:
        >>> denoise = FixedNoise(Denoiser(conv_net(1, width=8, depth=2)), 0.05)
        >>> float(taut.lipschitz_bound(denoise, (1, 8, 8))) <= 1
        True
    """

    def __init__(self, denoiser: nn.Module, sigma: float) -> None:
        super().__init__()
        if not isinstance(denoiser, nn.Module):
            raise ValueError(
                f"`denoiser` must be a torch.nn.Module; got {type(denoiser).__name__}."
            )
        self.denoiser, self.sigma = denoiser, positive("sigma", sigma)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Denoise."""
        return self.denoiser(x, self.sigma)

    def extra_repr(self) -> str:
        """The noise level."""
        return f"sigma={self.sigma}"


def conv_net(
    channels: int = 1,
    width: int = 32,
    depth: int = 5,
    kernel_size: int = 3,
    *,
    parametrization: Any = BCOP,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Build a 1-Lipschitz convolutional net that keeps the shape of images of any size.

    Convolutions with circular padding, and MaxMin between them.

    Args:
        channels: of the images.
        width: channels between the convolutions.
        depth: number of convolutions, at least 2.
        kernel_size: of the convolutions.
        parametrization: of their kernels, a class of :mod:`taut.parametrizations`.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Returns:
        The net.

    Raises:
        ValueError: if an argument is not a positive integer, or `depth` is 1.

    Example:
        >>> conv_net(3, width=8, depth=2)(torch.zeros(1, 3, 7, 9)).shape
        torch.Size([1, 3, 7, 9])
    """
    make = {"parametrization": parametrization, "device": device, "dtype": dtype}
    inner = whole("depth", depth, least=2) - 2
    layers: list[nn.Module] = [Conv2d(channels, width, kernel_size, **make), MaxMin()]
    for _ in range(inner):
        layers += [Conv2d(width, width, kernel_size, **make), MaxMin()]
    return nn.Sequential(*layers, Conv2d(width, channels, kernel_size, **make))
