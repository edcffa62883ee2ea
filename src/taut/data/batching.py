r"""Batches of an epoch, shuffled and augmented on the device, as a pure function of the seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from taut.data.seeding import generator
from taut.data.sets import Split, to_unit_range


@final
@dataclass(frozen=True)
class Augment:
    r"""Random crop after zero padding, and a random horizontal flip.

    Args:
        crop_padding: zeros added to each side before a crop of the original size; 0 for no crop.
        flip: mirror every image left to right with probability one half.

    Raises:
        ValueError: if `crop_padding` is negative.

    Example:
        >>> Augment(crop_padding=4, flip=True)
        Augment(crop_padding=4, flip=True)
    """

    crop_padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"`crop_padding` must be 0 or more; got {self.crop_padding}.")


def batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augment: Augment | None = None,
    start: int = 0,
) -> Iterator[tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]]:
    r"""Float images in [0, 1] and labels of one epoch, shuffled, on the device of the split.

    Order and augmentation depend on `seed`, `epoch` and the position in the epoch alone: a run
    that resumes at any step sees the same batches bitwise, on every device. Each image comes once
    an epoch; the last batch holds what is left.

    Args:
        split: where to draw from.
        batch_size: images a batch.
        seed: of the run.
        epoch: number of this epoch.
        augment: how to vary the images; None leaves them as they are.
        start: the first step to yield, as if the ones before had been skipped.

    Returns:
        An iterator over pairs of images and labels.

    Raises:
        ValueError: if `batch_size` is below 1 or `start` is not a step of the epoch or its end.

    Example:
        >>> split = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
        >>> [len(labels) for _, labels in batches(split, 2, seed=0, epoch=0)]
        [2, 2, 1]
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; got {batch_size}.")
    steps = -(-len(split) // batch_size)
    if not 0 <= start <= steps:
        raise ValueError(f"`start` must be from 0 to {steps}, the steps an epoch; got {start}.")
    return _batches(split, batch_size, generator("batches", seed, epoch), augment, start)


def _batches(
    split: Split,
    batch_size: int,
    generator: torch.Generator,
    augment: Augment | None,
    start: int,
) -> Iterator[tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]]:
    # All draws of the epoch are made at once on the CPU and moved once: the same on every device,
    # and no transfer waits inside the loop.
    count, device = len(split), split.images.device
    spread = 1 if augment is None else 2 * augment.crop_padding + 1
    order = torch.randperm(count, generator=generator).to(device)
    offsets = torch.randint(spread, (count, 2), generator=generator).to(device)
    flips = torch.randint(2, (count,), generator=generator).bool().to(device)
    for begin in range(start * batch_size, count, batch_size):
        here = slice(begin, begin + batch_size)
        pixels = split.images[order[here]]
        if augment is not None and augment.flip:
            pixels = flip(pixels, flips[here])
        if augment is not None and augment.crop_padding:
            pixels = crop(pixels, offsets[here], padding=augment.crop_padding)
        yield to_unit_range(pixels), split.labels[order[here]]


def crop(
    images: UInt8[Tensor, "b c h w"], offsets: Int64[Tensor, "b 2"], *, padding: int
) -> UInt8[Tensor, "b c h w"]:
    r"""Each image padded with zeros on all sides and cut back to its size at its own offset.

    Args:
        images: the batch.
        offsets: row and column of the upper left corner in the padded image, 0 to `2 * padding`.
        padding: zeros on each side.

    Returns:
        The cut batch.

    Example:
        >>> images = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> crop(images, torch.tensor([[0, 1]]), padding=1)[0, 0].tolist()
        [[0, 0], [1, 2]]
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding, padding, padding, padding))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: b c row column h w
    return windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]


def flip(images: UInt8[Tensor, "b c h w"], which: Bool[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
    r"""The batch with the images marked in `which` mirrored left to right.

    Example:
        >>> images = torch.tensor([[[[1, 2]]], [[[3, 4]]]], dtype=torch.uint8)
        >>> flip(images, torch.tensor([True, False])).flatten().tolist()
        [2, 1, 3, 4]
    """
    return torch.where(which[:, None, None, None], images.flip(-1), images)
