r"""Data sets larger than memory: images are decoded by worker processes as batches need them."""

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from taut._torch_private import end_workers
from taut.data._augment import Variation, augmented_array
from taut.data._checks import checked_shape
from taut.data._folders import AbstractPictures, Arrangement, Picture, arrange
from taut.data._holdout import Holdout
from taut.data._hub import PREFIX, open_hub
from taut.data._named import TINY_IMAGENET
from taut.data._pixels import Change, Shape
from taut.data._sets import AbstractSplit, Split
from taut.data._shards import SHARDS, FilePictures, open_shards
from taut.data._tiny_imagenet import arrange_tiny_imagenet, locate

_CPU = torch.device("cpu")


@final
@dataclass(frozen=True, eq=False)
class Stream(AbstractSplit):
    r"""One split of a data set on disk: labels in memory, images decoded on demand.

    Args:
        pictures: from the index of an image to its uint8 pixels (c, h, w) and its name.
        which: index of each image of this part.
        labels: class indices from 0.
        shape: channels, height and width that every image must have; grey ones take any channels.
        workers: processes that decode, started once; 0 decodes in this one.
        target: the device that images are put on, over pinned memory if it is a GPU.

    Raises:
        ValueError: on fetching, if an image is damaged or of another shape; the message names it.

    Example:
        >>> def picture(at: int):
        ...     return np.full((1, 2, 2), at, np.uint8), f"picture {at}"
        >>> split = Stream(picture, torch.arange(3), torch.zeros(3).long(), (1, 2, 2), workers=0)
        >>> [len(part) for part in split.fetch(torch.arange(3), [slice(1, 3)])]
        [2]
    """

    pictures: Callable[[int], Picture]
    which: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    shape: tuple[int, int, int]
    workers: int
    target: torch.device = _CPU
    loaders: "_Loaders" = field(init=False, repr=False, default_factory=lambda: _Loaders())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.shape

    @property
    def device(self) -> torch.device:
        return self.target

    def to(self, device: torch.device | str) -> "Stream":
        return replace(self, target=torch.device(device))

    def pick(self, indices: Int64[Tensor, " n"]) -> "Stream":
        return replace(self, which=self.which[indices], labels=self.labels[indices])

    def close(self) -> None:
        r"""End the worker processes; they start again when they are needed."""
        self.loaders.close()

    def fetch(
        self,
        order: Int64[Tensor, " n"],
        parts: Sequence[slice],
        *,
        variation: Variation | None = None,
    ) -> Iterator[Split]:
        wanted = [order[part] for part in parts]
        batches = [_Batch(self.which[at].tolist(), at.tolist(), variation) for at in wanted]
        with self.loaders.lent(self._loader) as loader:
            loader.sampler.batches = batches
            for indices, pixels in zip(wanted, loader, strict=True):
                if isinstance(pixels, str):
                    raise ValueError(pixels)
                labels = self.labels[indices].to(self.target, non_blocking=True)
                yield Split(pixels.to(self.target, non_blocking=True), labels)

    def _loader(self) -> Any:
        return DataLoader(
            _Decoded(self.pictures, self.shape),
            sampler=_Given(),
            batch_size=None,  # the sampler draws batches
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.target.type in ("cuda", "xpu"),
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else it draws from the caller's
        )


@final
@dataclass(frozen=True, eq=False)
class StreamedDataset:
    r"""A train and a test split on disk; fields and `to` are those of :class:`Dataset`."""

    name: str
    label: str
    classes: tuple[str, ...]
    train: Stream
    test: Stream

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.train.input_shape

    def to(self, device: torch.device | str) -> "StreamedDataset":
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def close(self) -> None:
        r"""End the worker processes; they start again when they are needed."""
        for split in (self.train, self.test):
            split.close()


def stream(
    name: str,
    data_dir: Path | None,
    *,
    workers: int,
    holdout: Holdout | None = None,
    shape: Shape | None = None,
    draft: bool = False,
) -> StreamedDataset:
    r"""The data set called `name`, with images read from disk when a batch needs them.

    Classes, order and held-out images are those of `load`, and so are the batches.

    Args:
        name: "folder", "tiny-imagenet", "webdataset", or "hub:NAME" of a data set of the hub.
        data_dir: the folder, which may hold plain tar archives in the place of folders, or one such
            archive; the folder of the shards; for the hub where to keep its files, if wanted.
        workers: processes that decode; 0 decodes in the process that trains.
        holdout: which images to test on, for data that come without a test split.
        shape: to bring all images to; see :func:`taut.data.load`.
        draft: whether to decode JPEG files smaller; see :func:`taut.data.load`.

    Raises:
        ValueError: if the data set is not kept as single images, or a setting or file is wrong.
        FileNotFoundError: if there is no image.

    Example:
        >>> stream("mnist", None, workers=2)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: mnist is not kept as single images; folder, ...
    """
    if workers < 0:
        raise ValueError(f"`workers` must be at least 0; got {workers}.")
    path = None if data_dir is None else data_dir.expanduser()
    shape = checked_shape(shape, draft=draft)
    arranged, pictures = _opened(name, path, shape, draft=draft)
    parts = arranged.divided(holdout, name if path is None else path)
    first, _ = pictures(int(parts[0][0][0]))
    channels, height, width = first.shape
    shape = (channels, height, width)
    train, test = (Stream(pictures, which, labels, shape, workers) for which, labels in parts)
    return StreamedDataset(name, arranged.label, arranged.classes, train, test)


def _opened(
    name: str, path: Path | None, shape: Shape | None, *, draft: bool
) -> tuple[Arrangement, AbstractPictures]:
    """The arrangement of the images, and what decodes one of them."""
    if name.startswith(PREFIX):
        return open_hub(name.removeprefix(PREFIX), path, shape, draft=draft)
    if name not in ("folder", TINY_IMAGENET, SHARDS):
        raise ValueError(
            f"{name} is not kept as single images; folder, {TINY_IMAGENET}, {SHARDS} and "
            f"{PREFIX}NAME are."
        )
    if path is None or not path.exists():
        raise ValueError(
            f"`data_dir` must be a folder or tar archive to be streamed from; got {path}."
        )
    if name == SHARDS:
        return open_shards(path, shape, draft=draft)
    arranged, places = (
        arrange_tiny_imagenet(locate(path), lambda place: place, streamed=True)
        if name == TINY_IMAGENET
        else arrange(path, lambda place: place, streamed=True)
    )
    return arranged, FilePictures(places, shape, draft)


@final
@dataclass(frozen=True)
class _Batch:
    """Which pictures to decode, their indices in the split, and how they change."""

    which: list[int]
    indices: list[int]
    variation: Variation | None

    def __len__(self) -> int:
        return len(self.which)


@final
class _Given(Sampler):
    """The batches of the current epoch."""

    def __init__(self) -> None:
        self.batches: list[_Batch] = []

    def __iter__(self) -> Iterator[_Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@final
class _Loaders:
    """Keeps a data loader, whose worker processes also read the next epoch."""

    def __init__(self) -> None:
        self.kept: Any = None
        self.busy = False

    @contextmanager
    def lent(self, make: Callable[[], Any]) -> Iterator[Any]:
        """The kept one, or while that is in use one of its own."""
        if self.busy:
            yield make()
            return
        if self.kept is None:
            self.kept = make()
            # Before multiprocessing waits for workers that ignore its SIGTERM.
            atexit.register(_close, weakref.ref(self))
        self.busy = True
        try:
            yield self.kept
        finally:
            self.busy = False

    def close(self) -> None:
        """End the worker processes; they start again when they are needed."""
        if self.kept is not None:
            end_workers(self.kept)
        self.kept = None


def _close(loaders: "weakref.ref[_Loaders]") -> None:
    kept = loaders()
    if kept is not None:
        kept.close()


@final
@dataclass(frozen=True)
class _Decoded(torch.utils.data.Dataset):
    """Batches of pixels, or what is wrong with one: workers wrap errors in tracebacks."""

    pictures: Callable[[int], Picture]
    shape: tuple[int, int, int]

    def __getitem__(self, batch: _Batch) -> Tensor | str:
        images = np.empty((len(batch), *self.shape), dtype=np.uint8)
        for image, at, index in zip(images, batch.which, batch.indices, strict=True):
            try:
                pixels, name = self._picture(at, index, batch.variation)
            except ValueError as error:
                return str(error)
            if pixels.shape[1:] != self.shape[1:] or len(pixels) not in (1, len(image)):
                return (
                    f"{name}: all images must have the shape of the first one, {self.shape}; "
                    f"got {pixels.shape}."
                )
            image[:] = pixels
        return torch.from_numpy(images)

    def _picture(self, at: int, index: int, variation: Variation | None) -> Picture:
        if variation is None:
            return self.pictures(at)
        if isinstance(self.pictures, AbstractPictures):
            return self.pictures(at, Change(variation, index))
        pixels, name = self.pictures(at)
        return augmented_array(pixels, index, variation), name


def _leave_signals_to_the_parent(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; a step must be finished before all stop.
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
