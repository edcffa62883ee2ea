r"""STL-10 from its original binary files: a folder or the archive."""

from pathlib import Path

import numpy as np

from taut.data.archive import files_called
from taut.data.checked import checked_split, missing
from taut.data.sets import Dataset, Split

CLASSES = (
    "airplane",
    "bird",
    "car",
    "cat",
    "deer",
    "dog",
    "horse",
    "monkey",
    "ship",
    "truck",
)
_FOLDER, _ARCHIVE = "stl10_binary", "stl10_binary.tar.gz"
_HOW = f"Download {_ARCHIVE} from https://cs.stanford.edu/~acoates/stl10/."
_NAMES = tuple(f"{part}_{kind}.bin" for part in ("train", "test") for kind in "Xy")
_SHAPE = (3, 96, 96)
_PIXELS = 3 * 96 * 96


def stl10(path: Path) -> Dataset:
    r"""STL-10 (Coates, Lee and Ng, 2011) from its folder or archive; unlabelled images are left."""
    files, where = _open(path)
    train, test = (_split(files, where, part) for part in ("train", "test"))
    return Dataset("stl10", "STL-10", CLASSES, train, test)


def _open(path: Path) -> tuple[dict[str, bytes], Path]:
    r"""The files by name, as far as they are there, and where they were."""
    for folder in (path, path / _FOLDER):
        found = [name for name in _NAMES if (folder / name).is_file()]
        if found:
            return {name: (folder / name).read_bytes() for name in found}, folder
    archive = path if path.is_file() else path / _ARCHIVE
    if not archive.is_file():
        raise missing(_ARCHIVE, path, _HOW)
    return files_called(archive, _NAMES), archive


def _split(files: dict[str, bytes], where: Path, part: str) -> Split:
    names = f"{part}_X.bin", f"{part}_y.bin"
    for name in names:
        if name not in files:
            raise missing(name, where, _HOW)
    pixels, labels = (np.frombuffer(files[name], np.uint8) for name in names)
    if len(pixels) % _PIXELS:
        raise ValueError(
            f"{where}: {names[0]}: must be whole images of {_PIXELS} bytes; "
            f"got {len(pixels)} bytes."
        )
    # Stored column by column; and classes count from 1.
    images = pixels.reshape(-1, *_SHAPE).swapaxes(2, 3)
    source = f"{where}: {part}"
    return checked_split(images, labels.astype(np.int64) - 1, len(CLASSES), source)
