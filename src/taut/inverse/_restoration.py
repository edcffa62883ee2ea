"""What an iteration returns, and what all of them check."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_tensor, positive, whole
from taut.inverse._averagedness import averagedness
from taut.inverse._data_term import AbstractDataTerm
from taut.inverse._denoiser import FixedNoise
from taut.program import UnprovenError

__all__ = ["Restoration", "check_arguments", "distance", "proved_denoiser"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Restoration:
    r"""Restored images, and how the iteration went.

    Attributes:
        image: the last iterate.
        residuals: (iterations, batch): l2 distances of successive iterates.
        averaged: the iterated map is proved to be averaged with this number; None if it was not to
            be proved.
        theorem: what follows from that; "" if nothing was to be proved.

    Example:
        >>> denoiser = taut.inverse.Denoiser(nn.Identity())
        >>> data = taut.inverse.LeastSquares(nn.Identity(), torch.ones(1, 1, 2, 2))
        >>> start = torch.zeros(1, 1, 2, 2)
        >>> taut.inverse.admm(denoiser, data, start, step=1.0, sigma=0.1, iterations=3)
        Restoration(1 image after 3 iterations, last residual 0.125; 0.5-averaged)
    """

    image: Float[Tensor, "b c h w"]
    residuals: Float[Tensor, "k b"]
    averaged: float | None
    theorem: str

    def __repr__(self) -> str:
        iterations, images = self.residuals.shape
        proved = "nothing proved" if self.averaged is None else f"{self.averaged:.3g}-averaged"
        return (
            f"Restoration({images} image{'s' * (images != 1)} after {iterations} iterations, "
            f"last residual {float(self.residuals[-1].max()):.3g}; {proved})"
        )


def check_arguments(data: Any, start: Any, step: Any, iterations: Any) -> None:
    """Refuse what no iteration can work with."""
    if not isinstance(data, AbstractDataTerm):
        kind = type(data).__name__
        raise ValueError(f"`data` must be a data term, such as LeastSquares; got {kind}.")
    check_tensor("start", start)
    if start.dim() != 4 or not start.is_floating_point():
        shape = f"{start.dtype} of shape {tuple(start.shape)}"
        raise ValueError(f"`start` must be a float tensor of shape (b, c, h, w); got {shape}.")
    positive("step", step)
    whole("iterations", iterations)


def proved_denoiser(
    denoiser: nn.Module, sigma: float, shape: tuple[int, ...], *, firmly: bool
) -> float:
    """How averaged a denoiser is at a noise level, refused if that is not enough."""
    try:
        alpha = averagedness(FixedNoise(denoiser, sigma), shape)
    except UnprovenError as error:
        raise UnprovenError(
            f"`denoiser` must be proven to be averaged, or pass `proved=False`: {error}"
        ) from None
    if alpha > 0.5 if firmly else alpha >= 1:
        needed = "firmly nonexpansive (0.5-averaged)" if firmly else "averaged (below 1)"
        raise UnprovenError(
            f"`denoiser` must be {needed}, or pass `proved=False`; got {alpha:.6g}-averaged."
        )
    return alpha


def distance(x: Tensor, y: Tensor) -> Float[Tensor, " b"]:
    """The l2 distance of each pair of images."""
    return torch.linalg.vector_norm((x - y).flatten(1), dim=1)
