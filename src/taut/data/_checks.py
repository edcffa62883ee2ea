r"""Checks that all readers share: sizes, labels, shapes, files; what is wrong names the file."""

import bz2
import gzip
import lzma
import stat
import zlib
from collections.abc import Callable, Sequence
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch

from taut.data._sets import Split

Data = bytes | bytearray
LIMIT = 4 << 30
RATIO = 100
"""A file of n bytes may unpack to `LIMIT` bytes, or to `RATIO` times n where that is more: images
and labels pack 2 to 20 times smaller, a file of zeros 1,000 times."""

BROKEN = (EOFError, OSError, MemoryError, zlib.error, lzma.LZMAError)
"""What damaged or cut-off files raise while they are unpacked."""

_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def check_size(size: int, packed: int, source: object) -> None:
    """Refuse what would take too much memory for the bytes on disk that it comes from."""
    limit = max(LIMIT, RATIO * packed)
    if size > limit:
        raise ValueError(
            f"{source} would take {size / 2**30:,.1f} GiB of memory; the limit for a file of its "
            f"size is {limit / 2**30:,.1f} GiB."
        )


def size_of(path: Path) -> int:
    """The size of a file; a device or a pipe, which may have no end, is refused."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: is a device or a pipe, not a file; its size has no limit.")
    return status.st_size


def open_unpacked(path: Path) -> BufferedIOBase:
    """A file opened to be read, unpacked where it begins as gzip, bzip2 or xz do."""
    size_of(path)
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opener in _PACKED.items():
        if start.startswith(magic):
            return opener(path, "rb")
    return path.open("rb")


def read_at_most(read: Callable[[int], bytes], size: int) -> bytearray:
    """Up to `size` bytes, piece by piece: memory is taken only for what is there."""
    content = bytearray()
    while piece := read(min(1 << 20, size - len(content))):
        content += piece
    return content


TRAIN_PARTS = ("train", "training")
TEST_PARTS = ("test", "testing", "val", "valid", "validation", "dev", "eval")
"""Parts to train on and to test on, in any case: the first one that is there."""


def checked_split(images: np.ndarray, labels: np.ndarray, classes: int, source: object) -> Split:
    """uint8 images (n, c, h, w) and integer labels (n,) as tensors on the CPU."""
    check_pairs(images, labels, source)
    check_labels(labels, classes, source)
    pixels = np.require(images, np.uint8, ["C", "W"])
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def check_pairs(images: np.ndarray, labels: np.ndarray, source: object) -> None:
    """Refuse anything but one label an image, and images without pixels."""
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels.")
    if 0 in images.shape:
        raise ValueError(f"{source}: has no image, or images without pixels: {images.shape}.")


def check_labels(labels: np.ndarray, classes: int, source: object) -> None:
    """Refuse labels of no class, and no label at all."""
    if not len(labels):
        raise ValueError(f"{source}: has no image.")
    low, high = int(labels.min()), int(labels.max())  # exact, whatever integers they are
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"{source}: labels must be from 0 to {classes - 1}; got {wrong}.")


def missing(what: str, where: Path, how: str) -> FileNotFoundError:
    """The error for a file that is not there: what, where it was looked for, how to get it."""
    return FileNotFoundError(f"{what} not found in {where}. {how}")


def checked_shape(
    shape: tuple[int, int, int] | None, *, draft: bool = False
) -> tuple[int, int, int] | None:
    """The shape that images are to be brought to: 1 or 3 channels, positive height and width."""
    if draft and shape is None:
        raise ValueError("`draft` needs `shape`, which says how large pictures must be.")
    if shape is None or (len(shape) == 3 and shape[0] in (1, 3) and min(shape) > 0):
        return shape
    raise ValueError(f"`shape` must be 1 or 3 channels, a height and a width; got {shape}.")


def only_file(folder: Path, patterns: Sequence[str], what: str, error: FileNotFoundError) -> Path:
    """The one file of a folder whose name fits a pattern."""
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    if len(files) > 1:
        raise ValueError(f"{folder}: must hold one {what}; got {[file.name for file in files]}.")
    if not files:
        raise error
    return files[0]
