r"""Data sets by name."""

import os
from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float, Int64
from torch import Tensor

from taut.data._checks import checked_shape
from taut.data._folders import load_folder, load_jpeg75, load_pictures
from taut.data._holdout import Holdout
from taut.data._hub import PREFIX, open_hub
from taut.data._named import (
    EMBEDDED,
    JPEG75,
    NAMED,
    TINY_IMAGENET,
    read_embedded,
    read_named,
)
from taut.data._npz import read_npz, read_npz_test
from taut.data._sets import Dataset
from taut.data._shards import SHARDS, open_shards
from taut.data._tiny_imagenet import load_tiny_imagenet
from taut.kinds import did_you_mean

_FOLDER, _NPZ = "folder", "npz"
_PLACES = {
    _FOLDER: "a folder or tar archive of images by class",
    _NPZ: "an npz file",
    SHARDS: "a folder of tar shards",
}


def names() -> tuple[str, ...]:
    r"""The names that `load` takes; `NAME` in the last one stands for a data set of the hub.

    Example:
        >>> names()[:3]
        ('fashion-mnist-subset', 'mnist', 'fashion-mnist')
    """
    return (*NAMED, _NPZ, _FOLDER, SHARDS, f"{PREFIX}NAME")


def is_published(name: str) -> bool:
    r"""Whether `name` is a published data set, with a training and a test split of its own.

    Example:
        >>> is_published("mnist"), is_published("folder")
        (True, False)
    """
    return name in NAMED


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    holdout: Holdout | None = None,
    shape: tuple[int, int, int] | None = None,
    draft: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Dataset:
    r"""The data set called `name`, on the CPU.

    Pictures are read as viewers show them: turned as their EXIF says, palettes resolved,
    transparency dropped, of 16 bits the upper 8; grey ones among coloured ones get three channels.
    In `folder` the classes take turns, so that the first n images are balanced. Where there is no
    test part, `val` or `validation` is tested on, and the label of the data set says so; it also
    says which part is left out, and if the files of a named data set are not the published ones.
    Labels in an npz file are whole numbers of any type. Nothing takes more than 4 GiB of memory,
    unless it is read from at least a hundredth of that on disk.

    Args:
        name: one of `names()`.
        data_dir: the folder with its original files, or the one archive or npz file; none for the
            embedded subset; for a data set of the hub where to keep its files, if wanted.
        holdout: which images to test on, for images by class or from the hub that come without a
            test split.
        shape: channels, height and width to bring images by class or from the hub to: scaled until
            they cover it and cropped around the middle; without it, all must be of one size.
        draft: whether JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where that covers
            `shape`, which it needs.
        on_progress: called with the number of images decoded so far, where there are single
            images to decode; all else is read at once.

    Raises:
        ValueError: if the name is unknown, `data_dir`, `holdout` or `shape` is missing or
            superfluous, or a file is malformed, too large or of another data set.
        FileNotFoundError: if a file is missing; says which, where and how to get it.
        ModuleNotFoundError: if a library that the data set needs is not installed; says which
            extra has it.

    Example:
        >>> data = load("fashion-mnist-subset")
        >>> len(data.train), len(data.test), data.input_shape
        (2000, 1000, (1, 28, 28))
    """
    path = None if data_dir is None else Path(data_dir).expanduser()
    shape = checked_shape(shape, draft=draft)
    if name.startswith(PREFIX) and len(name) > len(PREFIX):
        arranged, pictures = open_hub(name.removeprefix(PREFIX), path, shape, draft=draft)
        return load_pictures(name, arranged, pictures, holdout, on_progress)
    path = _checked_path(name, path)
    if name == SHARDS:
        arranged, pictures = open_shards(path, shape, draft=draft)
        return load_pictures(name, arranged, pictures, holdout, on_progress)
    if name == _FOLDER:
        return load_folder(path, holdout, shape, on_progress, draft=draft)
    if holdout is not None:
        raise ValueError(f"`holdout` must be None for {name}, it has a test split; got {holdout}.")
    if name == TINY_IMAGENET:
        return load_tiny_imagenet(path, shape, on_progress, draft=draft)
    if shape is not None:
        raise ValueError(f"`shape` must be None for {name}, its images have one; got {shape}.")
    if name == EMBEDDED:
        return read_embedded()
    if name == JPEG75:
        return load_jpeg75(path, on_progress)
    return read_npz(path) if name == _NPZ else read_named(name, path)


def load_test(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"]]:
    r"""The test images of a data set as floats in [0, 1], and their labels.

    Of an npz file, it needs no training images: `x_test` and `y_test` (or of `val`), or `images`
    and `labels`, `x` and `y`, `data` and `target` are enough, and images may also be floats in
    [0, 1], which stay as they are.

    Args:
        name: one of `names()`.
        data_dir: as for `load`.
        shape: of one input. Where it has other than three axes, an npz file holds signals, volumes
            or features as floats of any size.

    Raises:
        ValueError: as `load`, or if floats are not in [0, 1] (finite, where they are no images).
        FileNotFoundError: as `load`.

    Example:
        >>> images, labels = load_test("fashion-mnist-subset")
        >>> images.shape, labels.shape
        (torch.Size([1000, 1, 28, 28]), torch.Size([1000]))
    """
    if name == _NPZ:
        path = _checked_path(name, None if data_dir is None else Path(data_dir))
        return read_npz_test(path, shape)
    test = load(name, data_dir).test
    return test.float_images(), test.labels


def _checked_path(name: str, path: Path | None) -> Path:
    """The place of the files of a data set that is known."""
    if name not in names():
        hint = did_you_mean(name, names())
        raise ValueError(f"`name` must be one of {', '.join(names())}; got {name!r}.{hint}")
    if name == EMBEDDED:
        if path is not None:
            raise ValueError(f"`data_dir` must be None for {name}, it is built in; got {path}.")
        return Path()
    if path is None:
        raise ValueError(f"`data_dir` must be the folder with the files of {name}; got None.")
    path = path.expanduser()
    if not path.exists() and name in _PLACES:
        raise FileNotFoundError(f"{path} not found; give {_PLACES[name]}.")
    return path
