"""Kernels as float64 taps, refused unless square and orthogonal."""

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.gram import gram_kernel
from taut.linalg.rounding import UNDERFLOW, outward, refuse_flushing

_DEFECT_LIMIT = 1e-2  # float32 kernels of 1024 channels are well below


def square_taps(kernel: Tensor) -> Tensor:
    """A kernel in float64, refused unless finite, of floats and `(c, c, *kernel_size)`."""
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
    r"""A kernel in float64, and a proven bound of :math:`\max_{|z|=1} \|W(z) W(z)^* - I\|_F`.

    Refused where the bound is above 0.01.
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
    """The Frobenius norms of the coefficients of W W* - I, summed, with their rounding."""
    gram = gram_kernel(taps[None])
    norms = gram.shifted(torch.ones_like(gram.error)).grams[0].flatten(1).square().sum(1).sqrt()
    rounding = gram.error[0] * len(taps) ** 0.5
    # Of each pair of shifts d, -d one is kept; 0 is its own partner.
    total = 2 * norms.sum() - norms[0] + rounding + UNDERFLOW
    return outward(total[None], taps[:, 0].numel() * len(taps) + 2 * len(norms) + 8).item()
