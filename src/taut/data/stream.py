r"""Data sets larger than memory: images are decoded by worker processes as batches need them."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader

from taut.data import hub, images
from taut.data.checked import checked_shape, missing
from taut.data.holdout import Holdout, check_holdout
from taut.data.listing import Parts, Place, listed
from taut.data.pixels import Shape, decode, to_array
from taut.data.sets import AbstractSplit, Split

_CPU = torch.device("cpu")


# Where pixels come from: an index in, uint8 (c, h, w) and the name of the image out.
Pictures = Callable[[int], tuple[np.ndarray, str]]


@final
@dataclass(frozen=True, eq=False)
class Stream(AbstractSplit):
    r"""One part of a data set on disk: labels in memory, images decoded when they are fetched.

    Args:
        pictures: where pixels come from.
        which: index of each image there.
        labels: class indices from 0.
        shape: channels, height and width that every image must have; grey ones take any channels.
        workers: processes that decode; 0 decodes in this one.
        place: the device that images are put on, over pinned memory where it is a GPU.
    """

    pictures: Pictures
    which: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    shape: tuple[int, int, int]
    workers: int
    place: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        r"""Channels, height and width of one image."""
        return self.shape

    @property
    def device(self) -> torch.device:
        r"""Where images are put."""
        return self.place

    def to(self, device: torch.device | str) -> "Stream":
        r"""The same images, to be put on `device`."""
        return replace(self, place=torch.device(device))

    def fetch(self, order: Int64[Tensor, " n"], parts: Sequence[slice]) -> Iterator[Split]:
        r"""The images at `order[part]` for one part after the other, some parts ahead.

        Args:
            order: indices of images, on the CPU.
            parts: slices of it; empty ones give splits without images.

        Raises:
            ValueError: if an image is damaged or of another shape; the message names it.
        """
        wanted = [order[part] for part in parts]
        loader = DataLoader(
            _Decoded(self.pictures, self.which, self.shape),
            batch_sampler=[indices.tolist() for indices in wanted],
            collate_fn=_Stack(self.shape),
            num_workers=self.workers,
            pin_memory=self.place.type == "cuda",
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else it draws from the caller's
        )
        for indices, pixels in zip(wanted, loader, strict=True):
            if isinstance(pixels, str):
                raise ValueError(pixels)
            labels = self.labels[indices].to(self.place, non_blocking=True)
            yield Split(pixels.to(self.place, non_blocking=True), labels)


@final
@dataclass(frozen=True, eq=False)
class StreamedDataset:
    r"""A train and a test split on disk with the names of their classes.

    Args:
        name: what `stream` was asked for.
        label: how reports name it.
        classes: one name a class; labels index it.
        train: the training split.
        test: the test split.
    """

    name: str
    label: str
    classes: tuple[str, ...]
    train: Stream
    test: Stream

    @property
    def input_shape(self) -> tuple[int, int, int]:
        r"""Channels, height and width of one image."""
        return self.train.input_shape

    def to(self, device: torch.device | str) -> "StreamedDataset":
        r"""The same data set, its images to be put on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def stream(
    name: str,
    data_dir: Path | None,
    *,
    workers: int,
    holdout: Holdout | None = None,
    shape: Shape | None = None,
) -> StreamedDataset:
    r"""The data set called `name`, its images left on disk until a batch needs them.

    Classes, order and held-out images are those of `load`, and so are the batches.

    Args:
        name: "folder", or "hub:NAME" of a data set of the hub.
        data_dir: the folder, which may hold plain tar archives in the place of folders, or one such
            archive; for the hub where to keep its files, if wanted.
        workers: processes that decode; 0 decodes in the process that trains.
        holdout: which images to test on, for data that come without a test split.
        shape: to bring all images to; see :func:`taut.data.load`.

    Returns:
        Its train and test splits.

    Raises:
        ValueError: if the data set is not kept as single images, or a setting or file is wrong.
        FileNotFoundError: if there is no image.

    Example:
        >>> stream("mnist", None, workers=2)
        Traceback (most recent call last):
        ValueError: `name` must be folder or hub:NAME to be streamed from disk; got 'mnist'.
    """
    if workers < 0:
        raise ValueError(f"`workers` must be at least 0; got {workers}.")
    shape = checked_shape(shape)
    if name.startswith(hub.PREFIX):
        return _hub(name.removeprefix(hub.PREFIX), data_dir, holdout, (workers, shape))
    if name != "folder":
        raise ValueError(
            f"`name` must be folder or {hub.PREFIX}NAME to be streamed from disk; got {name!r}."
        )
    data_dir = None if data_dir is None else data_dir.expanduser()
    if data_dir is None or not data_dir.exists():
        raise ValueError(
            f"`data_dir` must be a folder or tar archive to be streamed from; got {data_dir}."
        )
    return _folder(data_dir, holdout, (workers, shape))


_How = tuple[int, Shape | None]  # workers, and the shape to bring images to


def _folder(path: Path, holdout: Holdout | None, how: _How) -> StreamedDataset:
    names: list[Parts] = []
    places: list[Place] = []
    folders: list[Parts] = []
    for parts, place in listed(path):
        if place is None:
            folders.append(parts)
        else:
            names.append(parts)
            places.append(place)
    if not names:
        raise missing("An image", path, images.HOW)
    short = next((name for name in names if len(name) < 2), None)
    if short is not None:
        raise ValueError(f"{path}: {'/'.join(short)} must lie in the folder of its class.")
    roots = {name[:-2] for name in names}
    images.check_roots(roots, path)
    classes = images.class_names({name[-2] for name in names}, folders, roots)
    of_part: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        part = name[-3] if name[:-2] and name[-3] in images.SPLITS else "all"
        of_part.setdefault(part, []).append(at)
    ordered = {}
    for part, at in of_part.items():
        named = [(names[i][-2], names[i][-1]) for i in at]
        turns = images.in_turns(named, classes, path, part)
        ordered[part] = (_indices([at[i] for _, i in turns]), _indices([n for n, _ in turns]))
    parts = _held_out(ordered, holdout, str(path))
    train, test = _streams(_Files(places, how[1]), parts, how)
    return StreamedDataset("folder", path.resolve().name, classes, train, test)


def _hub(name: str, cache_dir: Path | None, holdout: Holdout | None, how: _How) -> StreamedDataset:
    source = f"{hub.PREFIX}{name}"
    found = hub.open_parts(name, cache_dir)
    rows = hub.choose_parts(name, found, holdout)
    (image, label), classes = hub.columns_of(rows[0], source)
    splits = []
    for part, its in zip(("train", "test"), rows, strict=True):
        if its is None:
            continue
        labels = _indices(list(its[label]))
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise ValueError(f"{source}: {part}: labels must be from 0 to {len(classes) - 1}.")
        everything = (torch.arange(len(labels)), labels)
        parts = [everything] if holdout is None else _held_out({"all": everything}, holdout, source)
        splits += _streams(_Rows(its, image, f"{source}: {part}", how[1]), parts, how)
    return StreamedDataset(source, name, classes, *splits)


_Part = tuple[Tensor, Tensor]  # indices and labels


def _held_out(found: dict[str, _Part], holdout: Holdout | None, source: str) -> list[_Part]:
    check_holdout(holdout, source, has_test="all" not in found)
    if holdout is None:
        return [found["train"], found["test"]]
    which, labels = found["all"]
    return [(which[part], labels[part]) for part in holdout.choose(len(labels))]


def _streams(pictures: Pictures, parts: list[_Part], how: _How) -> list[Stream]:
    workers, shape = how
    if shape is None:
        first, _ = pictures(int(parts[0][0][0]))
        channels, height, width = first.shape
        shape = (channels, height, width)
    return [Stream(pictures, which, labels, shape, workers) for which, labels in parts]


def _indices(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


@dataclass(frozen=True)
class _Files:
    places: list[Place]
    shape: Shape | None

    def __call__(self, at: int) -> tuple[np.ndarray, str]:
        place = self.places[at]
        return decode(place.read(), place, self.shape), str(place)


@dataclass(frozen=True)
class _Rows:
    rows: Any
    image: str
    source: str
    shape: Shape | None

    def __call__(self, at: int) -> tuple[np.ndarray, str]:
        name = f"{self.source}: image {at}"
        return to_array(self.rows[at][self.image], name, self.shape), name


@dataclass(frozen=True)
class _Decoded(torch.utils.data.Dataset):
    r"""Pixels as a tensor, or what is wrong with them: workers wrap errors in tracebacks."""

    pictures: Pictures
    which: Tensor
    shape: tuple[int, int, int]

    def __getitem__(self, at: int) -> Tensor | str:
        try:
            pixels, name = self.pictures(int(self.which[at]))
        except ValueError as error:
            return str(error)
        if pixels.shape[1:] != self.shape[1:] or len(pixels) not in (1, self.shape[0]):
            return (
                f"{name}: all images must have the shape of the first one, {self.shape}; "
                f"got {pixels.shape}."
            )
        return torch.from_numpy(np.array(np.broadcast_to(pixels, self.shape)))


@dataclass(frozen=True)
class _Stack:
    shape: tuple[int, int, int]

    def __call__(self, items: list[Tensor | str]) -> Tensor | str:
        wrong = [item for item in items if isinstance(item, str)]
        if wrong:
            return wrong[0]
        if not items:
            return torch.empty(0, *self.shape, dtype=torch.uint8)
        return torch.stack([item for item in items if isinstance(item, Tensor)])


def _leave_signals_to_the_parent(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; a step must be finished before all stop.
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
