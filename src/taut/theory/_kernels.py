"""What this package asks of a kernel."""

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.gram import gram_kernel
from taut.linalg.rounding import UNDERFLOW, outward, refuse_flushing

_DEFECT_LIMIT = 1e-2


def square_taps(kernel: Tensor) -> Tensor:
    """The kernel in float64.

    Raises:
        ValueError: if it is not a finite `(c, c, *kernel_size)` tensor of floats.

    Example:
        >>> square_taps(torch.ones(1, 1, 3)).dtype
        torch.float64
    """
    shape = tuple(kernel.shape)
    square = len(shape) >= 2 and shape[0] == shape[1] and kernel.numel() > 0
    if not square or not kernel.is_floating_point():
        raise ValueError(
            "`kernel` must be real, of shape (channels, channels, *kernel_size); a strided one is "
            f"square once its stride is folded into the channels; got {kernel.dtype} of {shape}."
        )
    if not bool(torch.isfinite(kernel).all()):
        raise ValueError("`kernel` must be finite; got NaN or infinity in it.")
    return kernel.detach().double()


def orthogonal_taps(kernel: Tensor) -> tuple[Float[Tensor, "c c *k"], float]:
    r"""The kernel in float64, and a proven bound of :math:`\max_{|z|=1} \|W(z) W(z)^* - I\|_F`.

    The Frobenius norms of the coefficients of :math:`W W^* - I` added up, and the bound of their
    rounding.

    Raises:
        ValueError: as `square_taps`, and if the bound is above 0.01: float32 kernels of 1024
            channels are well below, and no kernel that is not meant to be orthogonal is.

    Example:
        >>> orthogonal_taps(torch.eye(2)[:, :, None])[1] < 1e-14
        True
    """
    refuse_flushing()
    taps = square_taps(kernel)
    defect = _defect(taps)
    if not defect <= _DEFECT_LIMIT:
        raise ValueError(
            "`kernel` must be orthogonal: its symbol W has a measured defect |W W* - I| of "
            f"{defect:.3g} where at most {_DEFECT_LIMIT:g} is allowed."
        )
    return taps, defect


def _defect(taps: Tensor) -> float:
    gram = gram_kernel(taps[None])
    norms = gram.shifted(torch.ones_like(gram.error)).grams[0].flatten(1).square().sum(1).sqrt()
    rounding = gram.error[0] * len(taps) ** 0.5
    # Of each pair of shifts d, -d one is kept; 0 is its own partner.
    total = 2 * norms.sum() - norms[0] + rounding + UNDERFLOW
    return outward(total[None], taps[:, 0].numel() * len(taps) + 2 * len(norms) + 8).item()
