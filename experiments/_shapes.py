"""Shapes with exact signed distances: positive outside, negative inside."""

import math

import torch
from torch import Tensor

INNER, OUTER, POINTS = 0.35, 0.85, 5  # of the star
RING, TUBE = 0.6, 0.25  # of the torus


def star(x: Tensor) -> Tensor:
    """Distances to a star with five points, a polygon."""
    angles = math.pi / 2 + math.pi * torch.arange(2 * POINTS) / POINTS
    radii = torch.tensor([OUTER, INNER]).repeat(POINTS)
    return polygon(x, torch.stack([radii * angles.cos(), radii * angles.sin()], 1))


def polygon(x: Tensor, corners: Tensor) -> Tensor:
    """Distances to the nearest edge; the sign by how often a ray to the right crosses edges."""
    a = corners.to(x)
    edge = a.roll(-1, 0) - a  # (k, 2)
    to = x[:, None] - a  # (n, k, 2)
    along = ((to * edge).sum(2) / (edge * edge).sum(1)).clamp(0, 1)
    distance = (to - along[..., None] * edge).norm(dim=2).amin(1)
    crosses = (to[..., 1] < 0) != (to[..., 1] < edge[:, 1])
    left = to[..., 0] * edge[:, 1] - to[..., 1] * edge[:, 0]
    inside = (crosses & ((left < 0) == (edge[:, 1] > 0))).sum(1) % 2 == 1
    return torch.where(inside, -distance, distance)


def torus(x: Tensor) -> Tensor:
    """Distances to a ring around the third axis."""
    ring = torch.hypot(x[:, 0], x[:, 1]) - RING
    return torch.hypot(ring, x[:, 2]) - TUBE


SHAPES = {"star": (star, 2), "torus": (torus, 3)}
