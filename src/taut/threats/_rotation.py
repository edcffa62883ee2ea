r"""Rotations about the centre of an image.

Bilinear interpolation of the image continued by zeros is a function I of the plane, and the pixel
p of the rotated image is I at a point that moves along a circle of radius :math:`\rho_p`. Over half
an interval of h radians the pixel changes by at most :math:`h \rho_p G_p`, with :math:`G_p` the
largest slope of I in the squares between pixels that this point may visit: if :math:`h \rho_p` is
below 1/2, in two of them along each axis.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.certification import norms_upper
from taut.threats._cut import Cut
from taut.threats._transformation import AbstractTransformation, beside, check_search

__all__ = ["Rotation"]

_FURTHEST = 0.499
"""How far a point may move from the centre of its window; 1/2, with room for rounding."""


@final
@dataclass(frozen=True)
class Rotation(AbstractTransformation):
    r"""Rotations by at most r degrees about the centre of the last two axes, bilinear.

    Zeros come in from outside. Positive angles turn from the last axis towards the one before it.

    Guarantee: no angle smaller than the radius changes the answer. Coarser than for shifts, as the
        first layers count with their norm, and each pixel with the largest slope around it.

    Args:
        limit: degrees that are searched, at most, and the largest radius.
        cells: how many intervals are tried for each image, at most.

    Raises:
        ValueError: if a setting is out of range; on certifying, if images have no two axes.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> images = torch.rand(4, 1, 4, 4)
        >>> found = taut.threats.certify(model, images, torch.zeros(4).long(), Rotation())
        >>> bool((found.radius <= 30).all())
        True
    """

    kind = "rotation"
    unit = "degrees"
    planar = True
    halvings = 4
    limit: float = 30.0
    cells: int = 400

    def __post_init__(self) -> None:
        check_search(self.limit, self.cells)

    def roundings(self, shape: tuple[int, ...]) -> float:
        """Points are off by as many roundings of the size, pixels by a slope times that."""
        return 32.0 + 32.0 * max(shape[-2:])

    def transformed(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Four pixels around each point, each with its share."""
        flat = images.reshape(len(images), -1, *images.shape[-2:])  # (b, c, h, w)
        h, w = flat.shape[-2:]
        rows, columns = _points(h, w, parameters[:, 0].to(images))
        padded = F.pad(flat, (1, 1, 1, 1))
        rows, columns = rows.clamp(-1.0, h) + 1, columns.clamp(-1.0, w) + 1
        top, left = rows.floor().clamp(max=h), columns.floor().clamp(max=w)
        down, right = (rows - top)[:, None], (columns - left)[:, None]
        i, j = top.long(), left.long()
        upper = (1 - right) * _picked(padded, i, j) + right * _picked(padded, i, j + 1)
        lower = (1 - right) * _picked(padded, i + 1, j) + right * _picked(padded, i + 1, j + 1)
        return ((1 - down) * upper + down * lower).reshape(images.shape)

    def largest_norm(self, norms: Tensor, entries: int) -> Tensor:
        """Four times that of the image.

        Of points at distances of 1 no more than 16 are in the four squares around a pixel, each
        with a share of at most 1, and the shares of a point add up to 1.
        """
        return 4 * norms

    def spread(self, cut: Cut, images: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Tensor:
        """A bound from the slopes around each pixel; infinite where a cell is too long for them."""
        flat = images.reshape(len(images), -1, *images.shape[-2:])
        h, w = flat.shape[-2:]
        rows, columns = _points(h, w, centre[:, 0])
        radii = _points(h, w, torch.zeros(1, dtype=torch.float64, device="cpu"))
        radii = torch.hypot(radii[0] - (h - 1) / 2, radii[1] - (w - 1) / 2)  # (1, h, w)
        half = (high - low)[:, 0] * (math.pi / 360)  # of degrees, in radians
        way = beside(half, rows) * radii
        slopes = _picked(
            _slopes(flat),
            (rows + 1.5).floor().long().clamp(0, h + 1),
            (columns + 1.5).floor().long().clamp(0, w + 1),
        )
        moved = cut.norm * norms_upper(way[:, None] * slopes) * (1 + 2.0**-40)
        return moved.where(way.flatten(1).amax(1) <= _FURTHEST, math.inf)

    def proof(self, cut: Cut) -> str:
        """Intervals that are proven one after the other."""
        return "intervals of angles, each with the Lipschitz bound"


def _points(h: int, w: int, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel is read: rows and columns, each `(b, h, w)`."""
    turn = torch.deg2rad(degrees)[:, None, None]
    rows = torch.arange(h, dtype=degrees.dtype, device=degrees.device)[:, None] - (h - 1) / 2
    columns = torch.arange(w, dtype=degrees.dtype, device=degrees.device) - (w - 1) / 2
    across = turn.cos() * columns + turn.sin() * rows
    along = turn.cos() * rows - turn.sin() * columns
    return along + (h - 1) / 2, across + (w - 1) / 2


def _picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at these places of each image: `(b, c, h, w)`."""
    b, c, _, width = images.shape
    places = (rows * width + columns).flatten(1)[:, None].expand(b, c, -1)
    return images.flatten(2).gather(2, places).reshape(b, c, *rows.shape[1:])


def _slopes(images: Tensor) -> Tensor:
    """The largest slope of two by two squares between pixels, of which the first begins two before.

    In a square the slope along an axis is a mean of two differences. `(b, c, h + 2, w + 2)`.
    """
    padded = F.pad(images, (2, 2, 2, 2))
    down, right = padded.diff(dim=2).abs(), padded.diff(dim=3).abs()
    down = torch.maximum(down[..., :-1], down[..., 1:])  # (b, c, h + 3, w + 3)
    right = torch.maximum(right[..., :-1, :], right[..., 1:, :])
    return F.max_pool2d(torch.hypot(down, right), 2, 1)
