"""Outliers made of normal samples alone, for one-class training."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["IMAGES", "OUTLIERS", "VECTORS", "pushed"]

Images = Float[Tensor, "b c h w"]
Samples = Float[Tensor, "b *shape"]
Maker = Callable[[Tensor, torch.Generator], Tensor]


def shuffled(images: Images, generator: torch.Generator) -> Images:
    """Each image cut into 4 x 4 patches in random order; what is left over stays."""
    height, width = (max(1, n // 4) for n in images.shape[2:])
    rows, columns = (n // side for n, side in zip(images.shape[2:], (height, width), strict=True))
    whole = images[:, :, : rows * height, : columns * width]
    patches = F.unfold(whole, (height, width), stride=(height, width))  # (b, c h w, places)
    order = _uniform((len(images), rows * columns), images, generator).argsort(1)
    patches = patches.gather(2, order[:, None].expand_as(patches))
    size = (rows * height, columns * width)
    made = images.clone()
    made[:, :, : size[0], : size[1]] = F.fold(
        patches, size, (height, width), stride=(height, width)
    )
    return made


def mosaic(images: Images, generator: torch.Generator) -> Images:
    """Parts of two images, one of them moved, along a smooth random border."""
    others = images[torch.randperm(len(images), generator=generator).to(images.device)]
    most = min(images.shape[2:]) // 6
    moves = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    mask = _smooth(images, 3, generator) > 0.5
    return torch.where(mask, images, others.roll(moves, (2, 3)))


def erased(images: Images, generator: torch.Generator) -> Images:
    """Images of which smooth random parts are set to their smallest value."""
    kept = _smooth(images, 5, generator) > 0.45
    return torch.where(kept, images, images.amin())


def warped(images: Images, generator: torch.Generator) -> Images:
    """Images bent by a smooth random field."""
    field = torch.randn((len(images), 2, 4, 4), generator=generator).to(images)
    field = F.interpolate(field, images.shape[2:], mode="bicubic")
    plane = _affine(torch.eye(2, 3).to(images).expand(len(images), 2, 3), images)
    return _sampled(images, plane + 0.25 * field.movedim(1, -1))


def turned(images: Images, generator: torch.Generator) -> Images:
    """Images at a random angle and a random size."""
    angle, scale = 2 * _uniform((2, len(images)), images, generator) - 1
    angle, scale = torch.pi * angle, (scale / 2).exp()
    cos, sin, zero = scale * angle.cos(), scale * angle.sin(), torch.zeros_like(angle)
    rows = torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)
    return _sampled(images, _affine(torch.stack(rows, 1), images))


def clouds(images: Images, generator: torch.Generator) -> Images:
    """Smooth noise of the range of the images."""
    low, high = images.amin(), images.amax()
    noise = _uniform((*images.shape[:2], 6, 6), images, generator)
    smooth = F.interpolate(noise, images.shape[2:], mode="bicubic").clamp(0, 1)
    return low + (high - low) * smooth


def noise(samples: Samples, generator: torch.Generator) -> Samples:
    """Every number uniform between the least and the largest of its coordinate."""
    low, high = samples.amin(0), samples.amax(0)
    return low + (high - low) * _uniform(tuple(samples.shape), samples, generator)


def recombined(samples: Samples, generator: torch.Generator) -> Samples:
    """Every coordinate from a sample of its own, so that coordinates are independent."""
    order = _uniform(tuple(samples.shape), samples, generator).argsort(0)
    return samples.gather(0, order)


OUTLIERS: dict[str, Maker] = {
    "shuffled": shuffled, "mosaic": mosaic, "erased": erased, "warped": warped,
    "turned": turned, "clouds": clouds, "noise": noise, "recombined": recombined,
}  # fmt: skip
"""Makers of outliers, by name."""

IMAGES = ("shuffled", "mosaic", "erased", "warped", "turned", "clouds")
"""Outliers of images, by default."""

VECTORS = ("noise", "recombined")
"""Outliers of vectors, by default."""


def pushed(
    model: Callable[[Tensor], Tensor],
    outliers: Samples,
    level: float,
    steps: int,
    generator: torch.Generator,
) -> Samples:
    r"""Move outliers that score too low up to the level set of a score, each a random share.

    Steps of Newton and Raphson along the gradient g, :math:`x + t (\ell - f(x))_+ g / |g|^2`, t
    uniform in (0, 1); the points stay within the range of the outliers.

    Reference:
        Béthune et al. (2023), arXiv:2303.01978, algorithm 1; as there, a point is not moved back.
    """
    low, high = outliers.amin(), outliers.amax()
    share = _uniform((len(outliers), *[1] * (outliers.dim() - 1)), outliers, generator)
    for _ in range(steps):
        moved = outliers.detach().requires_grad_()
        scores = model(moved).flatten()
        (slope,) = torch.autograd.grad(scores.sum(), moved)
        square = slope.flatten(1).square().sum(1).clamp(min=1e-12)
        length = ((level - scores.detach()).clamp(min=0) / square).view_as(share)
        outliers = (outliers + share * length * slope).clamp(low, high)
    return outliers


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator).to(like)


def _smooth(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One smooth random field an image, near [0, 1]."""
    coarse = _uniform((len(images), 1, size, size), images, generator)
    return F.interpolate(coarse, images.shape[2:], mode="bicubic")


def _affine(maps: Tensor, images: Tensor) -> Tensor:
    return F.affine_grid(maps, list(images.shape), align_corners=False)


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    """What lies outside of an image has its smallest value."""
    least = images.amin()
    return F.grid_sample(images - least, grid, align_corners=False) + least
