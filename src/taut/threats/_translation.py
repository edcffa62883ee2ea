"""Shifts of an image by parts of a pixel."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taut.threats._cut import Cut
from taut.threats._transformation import AbstractTransformation, check_search

__all__ = ["Translation"]


@final
@dataclass(frozen=True)
class Translation(AbstractTransformation):
    r"""Shifts by at most r pixels along each of the last two axes, with bilinear interpolation.

    :math:`(T_t x)_p = \sum_q x_q\, \varphi(p_1 - q_1 - t_1)\, \varphi(p_2 - q_2 - t_2)` with
    :math:`\varphi(s) = \max(0, 1 - |s|)`: zeros move in from outside. Between whole pixels
    :math:`T_t x` is affine in each of the two numbers, so that the largest distance within a
    rectangle is that of a corner.

    Guarantee: no shift smaller than the radius along both axes changes the answer.

    Args:
        limit: sizes are searched up to this one, which is the largest radius.
        cells: how many rectangles are tried for each image, at most.

    Raises:
        ValueError: if a setting is out of range; on certifying, if images have no two axes.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> images = torch.rand(4, 1, 4, 4)
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), Translation())
        >>> bool((found.radius <= 2).all())
        True
    """

    kind = "translation"
    unit = "pixels along each axis"
    axes = 2
    planar = True
    halvings = 6
    limit: float = 2.0
    cells: int = 400

    def __post_init__(self) -> None:
        check_search(self.limit, self.cells)

    def breaks(self) -> tuple[float, ...]:
        """Whole pixels."""
        most = math.ceil(self.limit)
        return tuple(float(n) for n in range(-most, most + 1))

    def transformed(self, images: Tensor, parameters: Tensor) -> Tensor:
        """One matrix along each axis."""
        rows, columns = (
            _shifts(size, t, images)
            for size, t in zip(images.shape[-2:], parameters.unbind(1), strict=True)
        )
        flat = images.reshape(len(images), -1, *images.shape[-2:])  # (b, c, h, w)
        return (rows[:, None] @ flat @ columns[:, None].mT).reshape(images.shape)

    def largest_norm(self, norms: Tensor, entries: int) -> Tensor:
        """The norm of the image: a shift is a mean of shifts by whole pixels."""
        return norms

    def proof(self, cut: Cut) -> str:
        """Rectangles that are proven one after the other."""
        return "rectangles of shifts, each with the Lipschitz bound"


def _shifts(size: int, t: Tensor, like: Tensor) -> Tensor:
    """Matrices that shift by t along one axis, `(b, size, size)`."""
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    distance = (places[:, None] - places) - t.to(like)[:, None, None]
    return (1 - distance.abs()).clamp(min=0.0)
