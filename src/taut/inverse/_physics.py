"""Linear measurements of images, each with its adjoint and its proximal step in closed form."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut._arguments import check_tensor, whole

__all__ = ["Blur", "Downsampling", "Inpainting"]

Image = Float[Tensor, "b c h w"]
Measured = Float[Tensor, "b c m n"]


@final
class Blur(nn.Module):
    r"""Convolution of each channel with one filter, with circular padding.

    Guarantee: :func:`taut.lipschitz_bound` proves the norm; a filter of entries above 0 and of sum
        1 has norm 1. `A_adjoint` is the exact adjoint, and `prox_l2` is exact: the operator is
        diagonal in the frequency domain.
    Cost: a convolution; `prox_l2` five Fourier transforms.

    Args:
        filter: `(h, w)`, not larger than the images; correlated with the image, centred.

    Raises:
        ValueError: if the filter has other dimensions.

    Example:
        >>> blur = Blur(torch.full((3, 3), 1 / 9))
        >>> x = torch.zeros(1, 1, 5, 5)
        >>> x[..., 2, 2] = 9
        >>> blur(x)[0, 0, 0].tolist(), blur(x)[0, 0, 1].round().tolist()
        ([0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0, 0.0])
    """

    filter: Tensor

    def __init__(self, filter: Tensor) -> None:
        super().__init__()
        check_tensor("filter", filter)
        if filter.dim() != 2 or not filter.is_floating_point():
            shape = f"{filter.dtype} of shape {tuple(filter.shape)}"
            raise ValueError(f"`filter` must be a float tensor of shape (h, w); got {shape}.")
        self.register_buffer("filter", filter)

    def forward(self, x: Image) -> Image:
        """Measure."""
        return self.A(x)

    def A(self, x: Image) -> Image:
        """Blur."""
        (top, bottom), (left, right) = (((k - 1) // 2, k // 2) for k in self.filter.shape)
        return _correlated(x, self.filter, (left, right, top, bottom))

    def A_adjoint(self, y: Image) -> Image:
        """Apply the adjoint: correlate with the filter turned by half a turn."""
        (top, bottom), (left, right) = ((k // 2, (k - 1) // 2) for k in self.filter.shape)
        return _correlated(y, self.filter.flip(0, 1), (left, right, top, bottom))

    def prox_l2(self, z: Image, y: Image, gamma: float) -> Image:
        r"""Minimise :math:`\frac\gamma2 \|A x - y\|^2 + \frac12 \|x - z\|^2`."""
        h, w = z.shape[-2:]
        unit = z.new_zeros(1, 1, h, w)
        unit[..., 0, 0] = 1
        response = torch.fft.rfft2(self.A(unit))
        right = torch.fft.rfft2(z + gamma * self.A_adjoint(y))
        return torch.fft.irfft2(right / (1 + gamma * response.abs().square()), s=(h, w))


@final
class Inpainting(nn.Module):
    r"""Products of pixels and a mask: 1 where a pixel is measured, 0 where it is not.

    Guarantee: norm 1 for a mask of zeros and ones; the operator is its own adjoint.
    Cost: a product.

    Args:
        mask: booleans or numbers; broadcasts to an image.

    Example:
        >>> Inpainting(torch.tensor([True, False]))(torch.ones(1, 1, 2, 2))[0, 0].tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        check_tensor("mask", mask)
        self.register_buffer("mask", mask)

    def forward(self, x: Image) -> Image:
        """Measure."""
        return self.A(x)

    def A(self, x: Image) -> Image:
        """Multiply by the mask."""
        return x * self.mask.to(x.dtype)

    def A_adjoint(self, y: Image) -> Image:
        """Multiply by the mask."""
        return self.A(y)

    def prox_l2(self, z: Image, y: Image, gamma: float) -> Image:
        r"""Minimise :math:`\frac\gamma2 \|A x - y\|^2 + \frac12 \|x - z\|^2`."""
        mask = self.mask.to(z.dtype)
        return (z + gamma * mask * y) / (1 + gamma * mask.square())


@final
class Downsampling(nn.Module):
    r"""Means of blocks of pixels.

    Guarantee: :math:`A A^\top = I / s^2` for blocks of s by s pixels, so that the norm is 1 / s and
        `prox_l2` is exact.
    Cost: a pass over the image.

    Args:
        factor: s, which must divide the sizes of images.

    Raises:
        ValueError: if the factor is not a positive integer; (forward) if it does not divide a size.

    Example:
        >>> Downsampling(2)(torch.arange(4.0).reshape(1, 1, 2, 2))
        tensor([[[[1.5000]]]])
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = whole("factor", factor)

    def forward(self, x: Image) -> Measured:
        """Measure."""
        return self.A(x)

    def A(self, x: Image) -> Measured:
        """Average blocks."""
        if any(n % self.factor for n in x.shape[-2:]):
            raise ValueError(
                f"`factor` must divide the sizes of the image; got {self.factor} for "
                f"{tuple(x.shape[-2:])}."
            )
        return F.avg_pool2d(x, self.factor)

    def A_adjoint(self, y: Measured) -> Image:
        """Spread each mean over its block."""
        s = self.factor
        return y.repeat_interleave(s, -2).repeat_interleave(s, -1) / s**2

    def prox_l2(self, z: Image, y: Measured, gamma: float) -> Image:
        r"""Minimise :math:`\frac\gamma2 \|A x - y\|^2 + \frac12 \|x - z\|^2`."""
        # (I + g A^T A)^-1 = I - g/(1 + g/s^2) A^T A, since A A^T = I/s^2.
        share = gamma / (1 + gamma / self.factor**2)
        return z + share * self.A_adjoint(y - self.A(z))

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"


def _correlated(x: Tensor, filter: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    channels = x.shape[-3]
    kernel = filter.to(x.dtype).expand(channels, 1, *filter.shape)
    return F.conv2d(F.pad(x, pad, mode="circular"), kernel, groups=channels)
