r"""Any data set from one npz file."""

import zipfile
from pathlib import Path

import numpy as np

from taut.data.checked import checked_split, missing
from taut.data.sets import Dataset

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_HOW = f"Write one with numpy.savez and the arrays {', '.join(_KEYS)}."


def read(path: Path) -> Dataset:
    r"""The arrays `x_train`, `y_train`, `x_test`, `y_test` and, if there, `classes` (names).

    Images are uint8 of shape (n, h, w), (n, c, h, w) or (n, h, w, c) with one or three channels;
    labels are integers from 0, of shape (n,) or (n, 1).

    Args:
        path: the file, or the folder that holds no other npz file.

    Returns:
        The data set, labelled with the name of the file.

    Raises:
        ValueError: if the arrays are not as above, or a class has no training image.
        FileNotFoundError: if there is no such file.
    """
    file = _locate(path)
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            arrays = dict(content)
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: not an npz file of plain arrays: {error}.") from error
    absent = [name for name in _KEYS if name not in arrays]
    if absent:
        raise ValueError(f"{file}: must hold {', '.join(_KEYS)}; {', '.join(absent)} not found.")
    labels = {part: _labels(arrays[f"y_{part}"], f"{file}: y_{part}") for part in ("train", "test")}
    count = int(labels["train"].max(initial=-1)) + 1
    classes = tuple(str(name) for name in arrays.get("classes", np.arange(count)))
    train, test = (
        checked_split(
            _images(arrays[f"x_{part}"], f"{file}: x_{part}"), labels[part], len(classes), file
        )
        for part in ("train", "test")
    )
    empty = [classes[at] for at in range(len(classes)) if at not in labels["train"]]
    if empty:
        raise ValueError(f"{file}: class {empty[0]} has no training image.")
    return Dataset("npz", file.stem, classes, train, test)


def _locate(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.npz"))
    if not files:
        raise missing("An npz file", path, _HOW)
    if len(files) > 1:
        raise ValueError(f"{path}: must hold one npz file; got {[file.name for file in files]}.")
    return files[0]


def _images(images: np.ndarray, source: str) -> np.ndarray:
    if images.dtype != np.uint8:
        raise ValueError(f"{source} must be uint8, 0 to 255; got {images.dtype}.")
    if images.ndim == 3:
        return images[:, None]
    first = images.ndim == 4 and images.shape[1] in (1, 3)
    last = images.ndim == 4 and images.shape[3] in (1, 3)
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
