"""Generators of images from noise."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class Generator(nn.Module):
    """From noise to images in [0, 1]: a dense layer, then convolutions between two upsamplings.

    Plain torch, and no Lipschitz bound is meant: only the critic needs one.

    Args:
        shape: channels, height and width of an image.
        latent: numbers of noise an image.
        width: channels before the last convolution.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> Generator((1, 28, 28), latent=8, width=4)(torch.zeros(2, 8)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, shape: tuple[int, int, int], *, latent: int = 64, width: int = 32) -> None:
        super().__init__()
        if min(*shape, latent, width) < 1:
            got = f"{shape}, latent={latent}, width={width}"
            raise ValueError(f"`shape`, `latent` and `width` must be positive; got {got}.")
        self.shape, self.latent = shape, latent
        rows, columns = (math.ceil(n / 4) for n in shape[1:])
        self.layers = nn.Sequential(
            nn.Linear(latent, 4 * width * rows * columns),
            nn.Unflatten(1, (4 * width, rows, columns)),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            *_doubled(4 * width, 2 * width),
            *_doubled(2 * width, width),
            nn.Conv2d(width, shape[0], 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, noise: Float[Tensor, "b n"]) -> Float[Tensor, "b c h w"]:
        """The images."""
        return self.layers(noise)[..., : self.shape[1], : self.shape[2]]


def _doubled(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(outputs), nn.ReLU()


@torch.no_grad()
def sample(
    generator: Generator, count: int, random: torch.Generator
) -> Float[Tensor, "count c h w"]:
    """Images from new noise, in eval mode; the generator keeps the mode it is in.

    Args:
        generator: makes them.
        count: how many.
        random: of the noise, on the CPU.

    Example:
        >>> sample(Generator((1, 8, 8), latent=2, width=2), 3, torch.Generator()).shape
        torch.Size([3, 1, 8, 8])
    """
    mode, device = generator.training, next(generator.parameters()).device
    noise = torch.randn(count, generator.latent, generator=random).to(device)
    try:
        parts = [generator.eval()(part) for part in noise.split(256)]
    finally:
        generator.train(mode)
    return torch.cat(parts)
