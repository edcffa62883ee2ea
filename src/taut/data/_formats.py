r"""From the bytes of published files to images (n, c, h, w) and labels from 0."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from taut.data._archive import Place
from taut.data._checks import BROKEN, Data, check_size, open_unpacked, read_at_most, size_of
from taut.data._inert_pickle import read_inert_pickle

_CIFAR = (3, 32, 32)
_STL10 = (3, 96, 96)
_Arrays = tuple[np.ndarray, np.ndarray]


def read_idx(place: Place) -> bytearray:
    """The bytes of an idx file, packed or not: as many as its header promises."""
    path, ndim = place.file, 3 if "idx3" in place.file.name else 1
    magic, length = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
    try:
        with open_unpacked(path) as stream:
            header = stream.read(length)
            if header[:4] != magic:
                got = header[:4].hex() or "an empty file"
                raise ValueError(
                    f"{path}: an idx file of bytes in {ndim} dimensions starts with {magic.hex()}; "
                    f"got {got}."
                )
            shape = _idx_shape(header)
            promised = length + math.prod(shape)
            check_size(promised, size_of(path), f"{path}: the array that its header promises")
            data = bytearray(header) + read_at_most(stream.read, promised - len(header) + 1)
    except BROKEN as error:
        raise ValueError(f"{path}: not a complete gzip file: {error}.") from error
    if len(data) != promised:
        got = len(data) if len(data) < promised else "more"
        raise ValueError(
            f"{path}: the header promises {promised} bytes for shape {shape}; got {got}."
        )
    return data


def _idx_shape(data: Data) -> tuple[int, ...]:
    """The sizes in the header of an idx file, after its magic number."""
    return tuple(int.from_bytes(data[4 * i : 4 * i + 4], "big") for i in range(1, 1 + data[3]))


def _parse_idx(files: Sequence[Data]) -> _Arrays:
    """A file of grey images and one of labels."""
    images, labels = (
        np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(_idx_shape(data))
        for data in files
    )
    return images[:, None], labels


def _parse_cifar_python(files: Sequence[Data], *, key: str) -> _Arrays:
    """A pickle of an array and a list."""
    size, content = math.prod(_CIFAR), read_inert_pickle(files[0])
    images, labels = content.get("data"), content.get(key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != size:
        raise ValueError(f"`data` must be uint8 of shape (n, {size}).")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"`{key}` must be a list of integers.")
    if not all(0 <= label < 100 for label in labels):
        raise ValueError(f"`{key}` holds a label out of range: {max(labels, key=abs)}.")
    return images.reshape(-1, *_CIFAR), np.array(labels, dtype=np.int64)


def _parse_cifar_binary(files: Sequence[Data], *, label_bytes: int) -> _Arrays:
    """Labels, the fine one last, and pixels in turn."""
    size = label_bytes + math.prod(_CIFAR)
    records = _records(files[0], size, "records")
    return records[:, label_bytes:].reshape(-1, *_CIFAR), records[:, label_bytes - 1]


def _parse_stl10(files: Sequence[Data]) -> _Arrays:
    """A file of images, each stored column by column, and one of labels that count from 1."""
    pixels = _records(files[0], math.prod(_STL10), "images")
    labels = np.frombuffer(files[1], np.uint8).astype(np.int64) - 1
    return pixels.reshape(-1, *_STL10).swapaxes(2, 3), labels


def _records(data: Data, size: int, kind: str) -> np.ndarray:
    if not data or len(data) % size:
        raise ValueError(f"must be whole {kind} of {size} bytes; got {len(data)} bytes.")
    return np.frombuffer(data, np.uint8).reshape(-1, size)


PARSERS: dict[str, Callable[[Sequence[Data]], _Arrays]] = {
    "idx": _parse_idx,
    "cifar10-python": partial(_parse_cifar_python, key="labels"),
    "cifar10-binary": partial(_parse_cifar_binary, label_bytes=1),
    "cifar100-python": partial(_parse_cifar_python, key="fine_labels"),
    "cifar100-binary": partial(_parse_cifar_binary, label_bytes=2),
    "stl10": _parse_stl10,
}
