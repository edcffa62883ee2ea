"""SVCM: singular values clipped, kernel masked."""

from typing import Any, final

import torch
from torch import Tensor

from taut._arguments import whole
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._reshaped import (
    as_kernel,
    as_matrix,
    folded,
    overlap,
    reshaped_sides,
    torus_of,
    unfolded,
)

# Rounding of a projection in float64: no more than this above 1 is left to clip after a round.
_NUMERICAL_EPS = 1e-12


@final
class SVCM(AbstractParametrization):
    r"""Free kernel, projected every few steps towards spectral norm at most 1.

    A round of the projection transforms the kernel to the frequencies of a periodic domain, clips
    every singular value to at most 1 at each of them, and cuts the result back to the taps of the
    kernel: alternating projections on two convex sets. :func:`taut.update_` projects every `every`
    steps; in between the kernel is unconstrained. Save, evaluate and certify
    :func:`taut.projected`, a projected copy.

    It starts as a semi-orthogonal reshaped kernel over its patch overlap, of norm at most 1.

    Guarantee: none. Between projections the norm is not bounded; after one it is a little above 1,
        because of the cut (a matrix is not cut: its norm is 1 to rounding).
    Cost: nothing per read; a projection takes up to `rounds` eigendecompositions of a matrix of the
        smaller channel count, in float64, for each frequency of half the periodic domain.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix.
        torus: output positions per axis, at least the taps of the kernel (over the stride); None
            for four per tap.
        every: optimiser steps from one projection to the next; the paper takes 100.
        rounds: rounds per projection, at most; the paper takes 50.
        options: stride, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if a count is below 1.

    Reference:
        Sedghi et al. (2019), *The Singular Values of Convolutional Layers*, arXiv:1805.10408; as in
        Li et al. (2019), arXiv:1911.00937, section 5. Theirs projects on a periodic domain of
        the size of the input, and starts from torch's default weights.

    Example:
        >>> method = SVCM(4, 4, (3, 3))
        >>> _ = method.raw_matrix.data.mul_(10)
        >>> method.project_()
        >>> layer = taut.nn.Conv2d(4, 4, 3, parametrization=lambda *sizes, **options: method)
        >>> float(taut.lipschitz_bound(layer, (4, 16, 16))) < 1.1
        True
    """

    guarantee = "none"
    reference = "Sedghi et al. 2019, arXiv:1805.10408"
    raw_matrix: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        torus: int | None = None,
        every: int = 100,
        rounds: int = 50,
        **options: Any,
    ) -> None:
        self.torus = None if torus is None else whole("torus", torus)
        self.every, self.rounds = whole("every", every), whole("rounds", rounds)
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel itself, reshaped, the longer side first."""
        return {"raw_matrix": reshaped_sides(self)}

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        # A copy, so that writing to a weight does not change the raw tensor.
        return as_kernel(self, self.raw_matrix).clone()

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The kernel itself; the next projection clips it."""
        return {"raw_matrix": as_matrix(self, weight)}

    def reset_parameters(self) -> None:
        """Draw a semi-orthogonal reshaped kernel, divided by its patch overlap."""
        super().reset_parameters()
        with torch.no_grad():
            self.raw_matrix /= overlap(self)

    def update_(self, step: int) -> None:
        """Project every `every` steps."""
        if step % self.every == 0:
            self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """Clip and cut until nothing is above 1, `rounds` times at most.

        Raises:
            ValueError: if the raw tensor holds NaN or infinity.
        """
        if not bool(self.raw_matrix.isfinite().all()):
            raise ValueError("`raw_matrix` must be finite to be projected; it holds NaN or Inf.")
        kernel = as_kernel(self, self.raw_matrix.double())
        torus = torus_of(self, self.torus)
        for _ in range(self.rounds):
            clipped = _clipped(folded(self, kernel).unflatten(0, (self.groups, -1)), torus)
            if clipped is None:
                break
            kernel = unfolded(self, clipped.flatten(0, 1))
        self.raw_matrix.copy_(as_matrix(self, kernel.clone()))


def _clipped(kernel: Tensor, torus: tuple[int, ...]) -> Tensor | None:
    """The kernels (g, o, i, *taps), clipped; None if no singular value on the torus is above 1."""
    axes = tuple(range(3, kernel.ndim))
    symbol = torch.fft.rfftn(kernel, s=torus, dim=axes) if axes else kernel
    matrices = symbol.permute(*axes, 0, 1, 2)
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mH if tall else matrices
    squares, vectors = torch.linalg.eigh(wide @ wide.mH)
    if float(squares.max()) <= 1 + _NUMERICAL_EPS:
        return None
    # Subtract the excess over 1 in the directions of the singular vectors.
    excess = (vectors * (1 - squares.clamp(min=1).rsqrt())[..., None, :]) @ vectors.mH
    clipped = matrices - (matrices @ excess if tall else excess @ matrices)
    symbol = clipped.permute(*range(len(axes), clipped.ndim), *range(len(axes)))
    if not axes:
        return symbol
    whole = torch.fft.irfftn(symbol, s=torus, dim=axes)
    return whole[(..., *(slice(taps) for taps in kernel.shape[3:]))]
