r"""CIFAR-10 and CIFAR-100 from their original files: python or binary, a folder or an archive."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import torch

from taut.data.archive import files_called
from taut.data.checked import checked_split, missing
from taut.data.cifar_classes import CIFAR10, CIFAR100
from taut.data.inert_pickle import read_inert_pickle
from taut.data.sets import Dataset, Split

_PIXELS = 3 * 32 * 32
_Arrays = tuple[np.ndarray, np.ndarray]


@final
@dataclass(frozen=True)
class _Layout:
    r"""One of the forms in which the data set is published."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    parse: Callable[[bytes, str], _Arrays]


def cifar10(path: Path) -> Dataset:
    r"""CIFAR-10 (Krizhevsky, 2009) from its folder or archive, python or binary version."""
    train, test = _read(path, _CIFAR10_LAYOUTS, len(CIFAR10))
    return Dataset("cifar10", "CIFAR-10", CIFAR10, train, test)


def cifar100(path: Path) -> Dataset:
    r"""CIFAR-100 with its 100 fine labels, from its folder or archive, python or binary version."""
    train, test = _read(path, _CIFAR100_LAYOUTS, len(CIFAR100))
    return Dataset("cifar100", "CIFAR-100", CIFAR100, train, test)


def _read(path: Path, layouts: tuple[_Layout, ...], classes: int) -> tuple[Split, Split]:
    layout, files, where = _open(path, layouts)
    splits = []
    for part in (layout.train, layout.test):
        images, labels = [], []
        for name in part:
            if name not in files:
                raise missing(name, where, _how(layouts))
            pixels, targets = layout.parse(files[name], f"{where}: {name}")
            split = checked_split(
                pixels.reshape(-1, 3, 32, 32), targets, classes, f"{where}: {name}"
            )
            images.append(split.images)
            labels.append(split.labels)
        splits.append(Split(torch.cat(images), torch.cat(labels)))
    return splits[0], splits[1]


def _open(path: Path, layouts: tuple[_Layout, ...]) -> tuple[_Layout, dict[str, bytes], Path]:
    r"""The layout found at `path`, its files by name, and where they were."""
    for layout in layouts:
        for folder in (path, path / layout.folder):
            names = [n for n in (*layout.train, *layout.test) if (folder / n).is_file()]
            if names:
                return layout, {name: (folder / name).read_bytes() for name in names}, folder
    for layout in layouts:
        archive = path if path.is_file() else path / layout.archive
        if archive.is_file():
            files = files_called(archive, (*layout.train, *layout.test))
            if files:
                return layout, files, archive
    raise missing(" or ".join(layout.archive for layout in layouts), path, _how(layouts))


def _how(layouts: tuple[_Layout, ...]) -> str:
    names = " or ".join(layout.archive for layout in layouts)
    return f"Download {names} from https://www.cs.toronto.edu/~kriz/cifar.html."


def _parse_python(data: bytes, source: str, *, key: str) -> _Arrays:
    content = read_inert_pickle(data, source)
    images, labels = content.get("data"), content.get(key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise ValueError(f"{source}: `data` must be uint8 of shape (n, {_PIXELS}).")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{source}: `{key}` must be a list of integers.")
    if not all(0 <= label < 100 for label in labels):
        raise ValueError(f"{source}: `{key}` holds a label out of range: {max(labels, key=abs)}.")
    return images, np.array(labels, dtype=np.int64)


def _parse_binary(data: bytes, source: str, *, label_bytes: int) -> _Arrays:
    record = label_bytes + _PIXELS
    if not data or len(data) % record:
        raise ValueError(
            f"{source}: must be whole records of {record} bytes; got {len(data)} bytes."
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, label_bytes:], records[:, label_bytes - 1]


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR10_LAYOUTS = (
    _Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        _BATCHES,
        ("test_batch",),
        partial(_parse_python, key="labels"),
    ),
    _Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        tuple(f"{name}.bin" for name in _BATCHES),
        ("test_batch.bin",),
        partial(_parse_binary, label_bytes=1),
    ),
)
_CIFAR100_LAYOUTS = (
    _Layout(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        ("train",),
        ("test",),
        partial(_parse_python, key="fine_labels"),
    ),
    # Each record starts with the coarse label, then the fine one.
    _Layout(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        ("train.bin",),
        ("test.bin",),
        partial(_parse_binary, label_bytes=2),
    ),
)
