r"""Any data set from one npz file."""

import lzma
import math
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from taut.data import _checks
from taut.data._checks import TEST_PARTS, TRAIN_PARTS, checked_split
from taut.data._sets import Dataset

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_HOW = f"Write one with numpy.savez and the arrays {', '.join(_KEYS)}."
# How images and labels are called, in any case; with a part before or behind them.
_IMAGES = ("x", "image", "images", "data", "input", "inputs", "arr_0")
_LABELS = ("y", "label", "labels", "target", "targets", "arr_1")
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


def read_array(file: Path) -> np.ndarray:
    r"""The array of an npy file, without pickle.

    Raises:
        ValueError: if it is damaged or no such file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.npy")
        >>> np.save(file, np.arange(3))
        >>> read_array(file)
        array([0, 1, 2])
    """
    size = _checks.size_of(file)
    with _naming(file, "npy file of numbers"), file.open("rb") as stream:
        _check_header(stream, size, file.name)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


@contextmanager
def _naming(file: Path, kind: str = "npz file of plain arrays") -> Iterator[None]:
    """Errors of a damaged file become a sentence that names it."""
    try:
        yield
    except _BROKEN as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{file}: not an {kind}: {reason}.") from error


def _entries(file: Path) -> dict[str, zipfile.ZipInfo]:
    _checks.size_of(file)
    with _naming(file), zipfile.ZipFile(file) as archive:
        return {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array, if its header promises what is there: numpy takes memory for the promise."""
    with archive.open(entry) as stream:
        _check_header(stream, entry.file_size, entry.filename)
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _check_header(stream: Any, size: int, name: str) -> None:
    """Refuse objects, and a header that promises another size."""
    npy = np.lib.format
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = headers[npy.read_magic(stream)](stream)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"{name} holds neither numbers nor text but {dtype}")
    promised = stream.tell() + math.prod(shape) * dtype.itemsize
    if promised != size:
        raise ValueError(f"{name} promises {promised:,} bytes; got {size:,}")


def read_npz(path: Path) -> Dataset:
    """Training and test images of a file, and the names of its classes if it has `classes`."""
    file = _located(path)
    entries = _entries(file)
    _, train = _pair(file, entries, TRAIN_PARTS) or ("train", _KEYS[:2])
    part, test = _pair(file, entries, TEST_PARTS) or ("test", _KEYS[2:])
    absent = [name for name in (*train, *test) if name not in entries]
    if absent:
        got = ", ".join(entries) or "no array"
        raise ValueError(
            f"{file}: must hold {', '.join(_KEYS)}; {', '.join(absent)} not found among {got}."
        )
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
    label = file.stem if part in ("test", "testing") else f"{file.stem} (tested on {part})"
    return Dataset("npz", label, classes, *splits)


def read_npz_test(
    path: Path, shape: tuple[int, ...] | None = None
) -> tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"]]:
    """Test images in [0, 1], or all images of a file without parts; floats stay as they are.

    With the `shape` of an input that is no image, finite floats as they are.
    """
    file = _located(path)
    entries = _entries(file)
    names = _pair(file, entries, TEST_PARTS) or _pair(file, entries, ("",))
    if names is None:
        got = ", ".join(entries) or "no array"
        raise ValueError(
            f"{file}: must hold test images and their labels, as x_test and y_test or images and "
            f"labels; got {got}."
        )
    x, y = names[1]
    arrays = read_arrays(file, (x, y))
    images, labels = arrays[x], _labels(arrays[y], f"{file}: {y}")
    signals = shape is not None and len(shape) != 3
    if images.dtype.kind != "f" and not signals:
        split = checked_split(_pixels(images, f"{file}: {x}"), labels, 1 << 63, file)
        return split.float_images(), split.labels
    _checks.check_pairs(images, labels, file)
    _checks.check_labels(labels, 1 << 63, file)
    if signals and (images.dtype.kind != "f" or not np.isfinite(images).all()):
        raise ValueError(f"{file}: {x} must hold finite floats; got {images.dtype}.")
    low, high = float(images.min()), float(images.max())
    if not (signals or 0 <= low <= high <= 1):  # NaN neither
        raise ValueError(f"{file}: {x} must lie in [0, 1]; got {low:g} to {high:g}.")
    inputs = images if signals else _channels_first(images, f"{file}: {x}")
    inputs = torch.from_numpy(inputs.astype(np.float32, order="C"))
    return inputs, torch.from_numpy(labels.astype(np.int64))


def _located(path: Path) -> Path:
    absent = _checks.missing("An npz file", path, _HOW)
    return path if path.is_file() else _checks.only_file(path, ["*.npz"], "npz file", absent)


def _pair(
    file: Path, names: Collection[str], parts: Sequence[str]
) -> tuple[str, tuple[str, str]] | None:
    """The first part that is there ("" for none), and the names of its images and labels."""
    for part in parts:
        images, labels = (_called(names, part, words) for words in (_IMAGES, _LABELS))
        if images and labels:
            if len(images) > 1 or len(labels) > 1:
                several = ", ".join(images if len(images) > 1 else labels)
                raise ValueError(f"{file}: must hold images and labels once; got {several}.")
            return part, (images[0], labels[0])
    return None


def _called(names: Collection[str], part: str, words: Sequence[str]) -> list[str]:
    """The names that are one of the words, with the part before or behind it."""
    wanted = {form for word in words for form in (f"{word}_{part}", f"{part}_{word}")}
    return [name for name in names if name.lower() in (wanted if part else words)]


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
    """Class indices (n,): integers of any type, bools, or floats that are whole numbers."""
    allowed = f"{source} must be class indices, whole numbers of shape (n,)"
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        raise ValueError(f"{allowed}; got {labels.shape}: of one-hot rows store labels.argmax(1).")
    if labels.dtype.kind not in "biuf" or labels.shape[1:] not in ((), (1,)) or labels.ndim == 0:
        raise ValueError(f"{allowed}; got {labels.dtype} of {labels.shape}.")
    labels = labels.reshape(-1)
    if labels.dtype.kind == "f":
        labels = labels.astype(np.float64)
        broken = labels[~((labels == np.floor(labels)) & (abs(labels) < 2.0**53))]
        if len(broken):
            raise ValueError(f"{allowed}; got {broken[0]:g}.")
    return labels.astype(np.int64) if labels.dtype.kind in "bf" else labels
