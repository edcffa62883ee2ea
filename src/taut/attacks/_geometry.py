"""Distances, directions, and the clip to ball and box."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from taut.linalg.rates import wide


def per_image(values: Shaped[Tensor, " b"], images: Float[Tensor, "b *shape"]) -> Tensor:
    """Reshape one value per image so that it broadcasts over the pixels."""
    return values.reshape(-1, *[1] * (images.ndim - 1))


def norms(images: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
    """L2 norm of each image, in float64 where the device has it."""
    return torch.linalg.vector_norm(wide(images).flatten(1), dim=1)


def distances(
    candidates: Float[Tensor, "b *shape"], images: Float[Tensor, "b *shape"]
) -> Float[Tensor, " b"]:
    """L2 distance between paired images; the difference, too, is taken in that precision."""
    return norms(wide(candidates) - wide(images))


def directions(vectors: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """Scale each image to norm 1; a zero image stays zero."""
    length = norms(vectors)
    length = length.clamp_min(torch.finfo(length.dtype).tiny)
    return (wide(vectors) / per_image(length, vectors)).to(vectors.dtype)


def clip(
    candidates: Float[Tensor, "b *shape"],
    images: Float[Tensor, "b *shape"],
    radius: Float[Tensor, " b"],
) -> Float[Tensor, "b *shape"]:
    """Move candidates into the pixel box [0, 1] and the l2 ball of `radius` around `images`.

    The box comes first: it is convex and holds the image, so shrinking towards the image stays in
    it. A moved pixel is rounded towards the image, so no rounding leaves the ball. Points that are
    inside already come back bit for bit; a NaN moves no pixel.
    """
    boxed = candidates.to(images.dtype).clamp(0, 1)
    boxed = torch.where(boxed.isnan(), images, boxed)
    length = distances(boxed, images)
    # The last digits of a sum of squares depend on its order: the slack keeps clear of them.
    slack = 1e-12 if length.dtype == torch.float64 else 1e-5
    scale = torch.where(length > radius, radius * (1 - slack) / length, 1.0)
    delta = (wide(boxed) - wide(images)) * per_image(scale, images)
    moved = (wide(images) + delta).to(images.dtype)
    too_far = (wide(moved) - wide(images)).abs() > delta.abs()
    moved = torch.where(too_far, torch.nextafter(moved, images), moved)
    return torch.where(per_image(length > radius, images), moved, boxed)
