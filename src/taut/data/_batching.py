r"""Batches of an epoch, shuffled and augmented on the device, as a pure function of the seed."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from taut._arguments import check_fields, whole
from taut.data._augment import Augment, Variation
from taut.data._mixing import cut_out, mixed, partners
from taut.data._sets import AbstractSplit, generator, to_unit_range

# Labels are a tensor (b,) of int64; with mixup MixedLabels.
_Batch = tuple[Float[Tensor, "b c h w"], Any]


def batches(
    split: AbstractSplit,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augment: Augment | None = None,
    start: int = 0,
) -> Iterator[_Batch]:
    r"""Float images in [0, 1] and labels of one epoch, on the device of the split.

    The undivided batches of :class:`Batches`, from step `start` of the epoch on. With mixup labels
    are :class:`MixedLabels`.

    Raises:
        ValueError: if `batch_size` is below 1 or `start` is not a step of the epoch or its end.

    Example:
        >>> split = taut.data.Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
        >>> [len(labels) for _, labels in batches(split, 2, seed=0, epoch=0)]
        [2, 2, 1]
    """
    of_run = Batches(split=split, batch_size=batch_size, seed=seed, augment=augment)
    return of_run.epoch(epoch, start=start)


@final
@dataclass(frozen=True)
class Share:
    r"""The part of every batch that one of several processes takes.

    Args:
        rank: number of the process, from 0.
        world: how many processes there are.

    Raises:
        ValueError: if `rank` is not one of `world` processes.

    Example:
        >>> [Share(rank, 2).of(10, 15) for rank in (0, 1)]
        [slice(10, 12, None), slice(12, 15, None)]
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"`rank` must be from 0 to {self.world - 1}; got {self.rank}.")

    def of(self, begin: int, end: int) -> slice:
        r"""The part of a range; sizes of parts differ by at most one, and parts may be empty."""
        count = end - begin
        first, after = (begin + rank * count // self.world for rank in (self.rank, self.rank + 1))
        return slice(first, after)


@final
@dataclass(frozen=True, kw_only=True)
class Batches:
    r"""The shuffled batches of a training run, or the share of one process in each.

    Order and augmentation depend on `seed`, the epoch and the image alone: a run that
    resumes at any step sees the same batches bitwise, on every device, and any number of processes
    together see the same images. Each comes once an epoch; the last batch holds what is left.

    Args:
        split: where to draw from.
        batch_size: images a batch, of all processes together.
        seed: of the run.
        augment: how to vary the images; None leaves them as they are.
        share: which part of each batch to yield.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> split = taut.data.Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
        >>> half = Batches(split=split, batch_size=2, seed=0, share=Share(1, 2))
        >>> half.steps, [len(labels) for _, labels in half.epoch(0)]
        (3, [1, 1, 1])
    """

    split: AbstractSplit
    batch_size: int
    seed: int
    augment: Augment | None = None
    share: Share = Share()

    def __post_init__(self) -> None:
        check_fields(self, whole, "batch_size")
        check_fields(self, whole, "seed", least=0)
        if not isinstance(self.augment, Augment | None):
            raise ValueError(f"`augment` must be None or an Augment; got {self.augment!r}.")

    @property
    def steps(self) -> int:
        r"""Number of batches in an epoch."""
        return -(-len(self.split) // self.batch_size)

    def size(self, step: int) -> int:
        r"""Number of images in the batch at a step, over all processes."""
        return min(self.batch_size, len(self.split) - step * self.batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[_Batch]:
        r"""Float images in [0, 1] and labels of one epoch, from step `start` on."""
        if whole("start", start, least=0) > self.steps:
            raise ValueError(
                f"`start` must be from 0 to {self.steps}, the steps an epoch; got {start}."
            )
        return self._draw(epoch, start)

    def _draw(self, epoch: int, start: int) -> Iterator[_Batch]:
        # All draws of the epoch are made at once on the CPU and moved once: the same on every
        # device and in every process, and no transfer waits inside the loop.
        augment = self.augment or Augment(crop_padding=0, flip=False)
        drawn = self._draws(generator("batches", self.seed, epoch), augment)
        count = len(self.split)
        begins = range(start * self.batch_size, count, self.batch_size)
        parts = [self.share.of(begin, min(begin + self.batch_size, count)) for begin in begins]
        # A mixed batch is fetched and changed with the partners of its images behind it.
        places = [drawn.places(part) for part in parts]
        ends = list(itertools.accumulate(map(len, places), initial=0))
        slices = [slice(*both) for both in itertools.pairwise(ends)]
        order = drawn.order[torch.cat(places)] if places else drawn.order[:0]
        varied = Variation(augment, self.seed, epoch) if augment.changes_pictures else None
        fetched = self.split.fetch(order, slices, variation=varied)
        for part, at, batch in zip(parts, places, fetched, strict=True):
            images = to_unit_range(drawn.changed(batch.images, at, augment))
            if drawn.shares is None:
                yield images, batch.labels
            else:
                yield mixed(images, batch.labels, drawn.shares[part])

    def _draws(self, draws: torch.Generator, augment: Augment) -> "_Draws":
        count, device = len(self.split), self.split.device

        def drawn(below: int, *size: int) -> Tensor:
            return torch.randint(below, (count, *size), generator=draws, device="cpu")

        order = torch.randperm(count, generator=draws, device="cpu")
        offsets = drawn(2 * augment.crop_padding + 1, 2).to(device)
        flips = drawn(2).bool().to(device)
        # A setting that is off draws no numbers: to switch it on changes no other random number.
        centres = partner = shares = None
        if augment.cutout:
            centres = torch.stack([drawn(n) for n in self.split.input_shape[1:]], 1).to(device)
        if augment.mixup:
            partner, shares = partners(count, self.batch_size, augment.mixup, draws)
            shares = shares.to(device)
        return _Draws(order, offsets, flips, centres, partner, shares)


@final
@dataclass(frozen=True, eq=False)
class _Draws:
    """What is drawn for each place of an epoch; order and partners stay on the CPU."""

    order: Tensor
    offsets: Tensor
    flips: Tensor
    centres: Tensor | None
    partner: Tensor | None
    shares: Tensor | None

    def places(self, part: slice) -> Tensor:
        """The places of a part, and behind them those of their partners."""
        places = torch.arange(part.start, part.stop, device="cpu")
        return places if self.partner is None else torch.cat([places, self.partner[places]])

    def changed(self, images: Tensor, places: Tensor, augment: Augment) -> Tensor:
        """Images at these places after all that changes whole batches but mixup."""
        at = places.to(images.device, non_blocking=True)
        if augment.flip:
            images = flip(images, self.flips[at])
        if augment.crop_padding:
            images = crop(images, self.offsets[at], padding=augment.crop_padding)
        if self.centres is not None:
            images = cut_out(images, self.centres[at], side=augment.cutout)
        return images


def crop(
    images: UInt8[Tensor, "b c h w"], offsets: Int64[Tensor, "b 2"], *, padding: int
) -> UInt8[Tensor, "b c h w"]:
    """Each image padded with zeros and cut back to its size at its own row and column."""
    height, width = images.shape[-2:]
    padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: b c row column h w
    return windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]


def flip(images: UInt8[Tensor, "b c h w"], which: Bool[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
    """The batch with the images marked in `which` mirrored left to right."""
    return torch.where(which[:, None, None, None], images.flip(-1), images)
