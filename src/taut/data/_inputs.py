r"""Images without labels, from pictures and arrays, and the names of the classes."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taut._arguments import batch_of
from taut.data import _checks
from taut.data._folders import arrange
from taut.data._named import NAMED
from taut.data._npz import read_arrays
from taut.data._pixels import images_below, read_picture
from taut.data._sets import to_unit_range

_BATCH = 256
_ARRAYS = ("images", "x", "X", "x_test", "X_test", "test_images")
"""Names of images in npz files, the first one that is there."""


class Inputs(NamedTuple):
    r"""Images that are read on demand.

    Attributes:
        names: of the images: paths, and for arrays also the place.
        batches: the images, at most 256 at once.

    Example:
        >>> Inputs(("a.png",), iter([torch.zeros(1, 3, 8, 8)])).names
        ('a.png',)
    """

    names: tuple[str, ...]
    batches: Iterator[Tensor]


def read_inputs(
    paths: Sequence[Path],
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    resize: bool = False,
) -> Inputs:
    r"""Images of a shape: pictures, folders of pictures, npz and npy files.

    Pictures, and arrays of uint8, become numbers in [0, 1]. Pictures are grey or coloured as the
    shape asks. Arrays of floats stay as they are; of images they lie in [0, 1].

    Args:
        paths: at least one.
        shape: of one image.
        dtype: of the tensors.
        resize: whether to bring pictures to the shape, as `load` does; if not, all must have it.

    Raises:
        ValueError: if a file is damaged, of another format, shape or range; names it.
        FileNotFoundError: if there is no such file, or no picture in a folder.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.npy")
        >>> np.save(file, np.full((2, 1, 1), 255, dtype=np.uint8))
        >>> names, batches = read_inputs([file], (1, 1, 1))
        >>> [name[-8:] for name in names], next(batches).flatten()
        (['a.npy[0]', 'a.npy[1]'], tensor([1., 1.]))
    """
    if not paths:
        raise ValueError("`images` must name at least one file; got none.")
    parts: list[Path | Tensor] = []
    names: list[str] = []
    for path in paths:
        if path.suffix in (".npz", ".npy"):
            array = _array(path, shape, dtype)
            parts.append(array)
            names += [f"{path}[{i}]" for i in range(len(array))]
            continue
        files = _pictures(path, shape)
        parts += files
        names += map(str, files)
    return Inputs(tuple(names), _batches(parts, shape, dtype, resize))


def _pictures(path: Path, shape: tuple[int, ...]) -> list[Path]:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{path}: the model takes inputs of {shape}; give an npz or npy file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    files = images_below(path) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"There is no picture in {path}.")
    return files


def _batches(
    parts: Sequence[Path | Tensor], shape: tuple[int, ...], dtype: torch.dtype, resize: bool
) -> Iterator[Tensor]:
    waiting: list[Path] = []
    for part in parts:
        if isinstance(part, Path):
            waiting.append(part)
        if waiting and (isinstance(part, Tensor) or len(waiting) == _BATCH):
            yield _decoded(waiting, shape, dtype, resize)
            waiting = []
        if isinstance(part, Tensor):
            yield from part.split(_BATCH)
    if waiting:
        yield _decoded(waiting, shape, dtype, resize)


def _decoded(files: list[Path], shape: tuple[int, ...], dtype: torch.dtype, resize: bool) -> Tensor:
    c, h, w = shape
    pixels = np.stack([read_picture(file, (c, h, w), resize=resize) for file in files])
    return to_unit_range(torch.from_numpy(pixels)).to(dtype)


def _array(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "n ..."]:
    array = _read_npy(path) if path.suffix == ".npy" else _read_npz(path)
    array = array[:, None] if len(shape) == 3 and shape[0] == 1 and array.ndim == 3 else array
    last = (*shape[1:], shape[0]) if len(shape) == 3 else shape
    if array.shape[1:] != shape and array.shape[1:] == last:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim == 0 or array.shape[1:] != shape or not len(array):
        raise ValueError(f"{path}: must hold images of shape {batch_of(shape)}; got {array.shape}.")
    if array.dtype == np.uint8:
        return to_unit_range(torch.from_numpy(np.require(array, None, ["C", "W"]))).to(dtype)
    if array.dtype.kind != "f":
        raise ValueError(f"{path}: must be uint8, 0 to 255, or floats; got {array.dtype}.")
    low, high = float(array.min()), float(array.max())
    if len(shape) == 3 and not 0 <= low <= high <= 1:  # NaN neither
        raise ValueError(f"{path}: floats must lie in [0, 1]; got {low:g} to {high:g}.")
    return torch.from_numpy(array.astype(np.float64)).to(dtype)


def _read_npz(path: Path) -> np.ndarray:
    arrays = read_arrays(_present(path), _ARRAYS)
    if not arrays:
        arrays = read_arrays(path)
        if len(arrays) != 1:
            got = ", ".join(arrays) or "none"
            raise ValueError(f"{path}: must hold one array, or `images`, or `x`; got {got}.")
    return next((arrays[name] for name in _ARRAYS if name in arrays), *arrays.values())


def _read_npy(path: Path) -> np.ndarray:
    size = _checks.size_of(_present(path))
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an npy file of a plain array: {error}.") from error
    _checks.check_size(array.nbytes, size, path)
    return np.array(array)


def _present(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return path


def class_names(name: str, data_dir: Path | None = None) -> tuple[str, ...] | None:
    r"""The class names of a data set, read without its images; None if unknown.

    Args:
        name: one of `names()`.
        data_dir: as for `load`; the names of a published data set need none.

    Example:
        >>> class_names("fashion-mnist")[0]
        'T-shirt/top'
    """
    if name in NAMED:
        return tuple(NAMED[name].classes)
    if data_dir is None or not data_dir.exists():
        return None
    if name == "npz" and data_dir.is_file():
        names = read_arrays(data_dir, ("classes",)).get("classes")
        return None if names is None else tuple(map(str, np.atleast_1d(names)))
    if name == "folder" and data_dir.is_dir():
        return arrange(data_dir, lambda place: None, streamed=False)[0].classes
    return None
