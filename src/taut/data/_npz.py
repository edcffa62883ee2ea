r"""Any data set from one npz file."""

import itertools
import lzma
import math
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from taut.data import _checks
from taut.data._checks import TEST_PARTS, checked_split
from taut.data._sets import Dataset

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_HOW = f"Write one with numpy.savez and the arrays {', '.join(_KEYS)}."
# How images and labels of a part are called, and of a file without parts.
_NAMES = (("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels"))
_ALONE = (("images", "labels"), ("x", "y"), ("X", "y"))
_BROKEN = (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, RuntimeError,
           MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)  # fmt: skip


def read_arrays(file: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    r"""The arrays of an npz file, without pickle and without unpacking a bomb.

    Args:
        file: the file.
        names: the arrays to read, as far as they are there; None for all.

    Raises:
        ValueError: if it is damaged or no such file, or if its arrays would take more than 4 GiB
            and more than 100 times the size of the file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.npz")
        >>> np.savez(file, x=np.arange(3))
        >>> read_arrays(file)
        {'x': array([0, 1, 2])}
    """
    entries = _entries(file)
    chosen = [name for name in entries if names is None or name in names]
    total = sum(entries[name].file_size for name in chosen)
    _checks.check_size(total, _checks.size_of(file), f"{file}: the arrays in it")
    with _naming(file), zipfile.ZipFile(file) as archive:
        return {name: _read_array(archive, entries[name]) for name in chosen}


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Errors of a damaged file become a sentence that names it."""
    try:
        yield
    except _BROKEN as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{file}: not an npz file of plain arrays: {reason}.") from error


def _entries(file: Path) -> dict[str, zipfile.ZipInfo]:
    _checks.size_of(file)
    with _naming(file), zipfile.ZipFile(file) as archive:
        return {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array, if its header promises what is there: numpy takes memory for the promise."""
    with archive.open(entry) as stream:
        npy = np.lib.format
        headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = headers[npy.read_magic(stream)](stream)
        if dtype.hasobject or not dtype.itemsize:
            raise ValueError(f"{entry.filename} holds neither numbers nor text but {dtype}")
        promised = stream.tell() + math.prod(shape) * dtype.itemsize
        if promised != entry.file_size:
            raise ValueError(
                f"{entry.filename} promises {promised:,} bytes; got {entry.file_size:,}"
            )
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_npz(path: Path) -> Dataset:
    """Training and test images of a file, and the names of its classes if it has `classes`."""
    file = _located(path)
    entries = _entries(file)
    _, train = _pair(entries, ("train",)) or ("train", _KEYS[:2])
    part, test = _pair(entries, TEST_PARTS) or ("test", _KEYS[2:])
    absent = [name for name in (*train, *test) if name not in entries]
    if absent:
        raise ValueError(f"{file}: must hold {', '.join(_KEYS)}; {', '.join(absent)} not found.")
    arrays = read_arrays(file, {*train, *test, "classes"})
    labels = [_labels(arrays[y], f"{file}: {y}") for _, y in (train, test)]
    classes = _classes(labels[0], arrays.get("classes"), f"{file}: {train[1]}")
    splits = [
        checked_split(_pixels(arrays[x], f"{file}: {x}"), its, len(classes), file)
        for (x, _), its in zip((train, test), labels, strict=True)
    ]
    counts = splits[0].labels.bincount(minlength=len(classes))
    if not counts.all():
        raise ValueError(f"{file}: class {classes[int(counts.argmin())]} has no training image.")
    label = file.stem if part == "test" else f"{file.stem} (tested on {part})"
    return Dataset("npz", label, classes, *splits)


def read_npz_test(path: Path) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """Test images in [0, 1], or all images of a file without parts; floats stay as they are."""
    file = _located(path)
    entries = _entries(file)
    names = _pair(entries, TEST_PARTS) or _pair(entries, ("all",), _ALONE)
    if names is None:
        got = ", ".join(entries) or "no array"
        raise ValueError(f"{file}: must hold x_test and y_test, or images and labels; got {got}.")
    x, y = names[1]
    arrays = read_arrays(file, (x, y))
    images, labels = arrays[x], _labels(arrays[y], f"{file}: {y}")
    if images.dtype.kind != "f":
        split = checked_split(_pixels(images, f"{file}: {x}"), labels, 1 << 63, file)
        return split.float_images(), split.labels
    _checks.check_pairs(images, labels, file)
    _checks.check_labels(labels, 1 << 63, file)
    low, high = float(images.min()), float(images.max())
    if not 0 <= low <= high <= 1:  # NaN neither
        raise ValueError(f"{file}: {x} must lie in [0, 1]; got {low:g} to {high:g}.")
    pixels = _channels_first(images, f"{file}: {x}").astype(np.float32, order="C")
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))


def _located(path: Path) -> Path:
    absent = _checks.missing("An npz file", path, _HOW)
    return path if path.is_file() else _checks.only_file(path, ["*.npz"], "npz file", absent)


def _pair(
    names: Collection[str], parts: Sequence[str], templates: Sequence[tuple[str, str]] = _NAMES
) -> tuple[str, tuple[str, str]] | None:
    """The first part that is there, and the names of its images and labels."""
    for part, (images, labels) in itertools.product(parts, templates):
        pair = images.format(part), labels.format(part)
        if pair[0] in names and pair[1] in names:
            return part, pair
    return None


def _classes(labels: np.ndarray, names: np.ndarray | None, source: str) -> tuple[str, ...]:
    """The names of the classes: as given, or their numbers, of which each needs an image."""
    if names is not None:
        return tuple(map(str, np.atleast_1d(names)))
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > len(labels):
        raise ValueError(
            f"{source}: labels must number the classes from 0, each with an image; "
            f"got {count - 1} among {len(labels)} images."
        )
    return tuple(map(str, range(count)))


def _pixels(images: np.ndarray, source: str) -> np.ndarray:
    if images.dtype != np.uint8:
        raise ValueError(f"{source} must be uint8, 0 to 255; got {images.dtype}.")
    return _channels_first(images, source)


def _channels_first(images: np.ndarray, source: str) -> np.ndarray:
    if images.ndim == 3:
        return images[:, None]
    first, last = (images.ndim == 4 and images.shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        raise ValueError(
            f"{source} must have shape (n, h, w), or (n, c, h, w) or (n, h, w, c) with c 1 or 3; "
            f"got {images.shape}."
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _labels(labels: np.ndarray, source: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.shape[1:] not in ((), (1,)) or labels.ndim == 0:
        raise ValueError(
            f"{source} must be integers of shape (n,); got {labels.dtype} of {labels.shape}."
        )
    return labels.reshape(-1)
