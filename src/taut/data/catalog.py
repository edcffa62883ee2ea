r"""Data sets by name."""

import os
from collections.abc import Callable
from pathlib import Path

from taut.data import cifar, embedded, hub, idx, images, npz, stl10
from taut.data.checked import checked_shape, missing
from taut.data.holdout import Holdout
from taut.data.sets import Dataset

# Those that need nothing but their files.
_READERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist": idx.mnist,
    "fashion-mnist": idx.fashion_mnist,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "stl10": stl10.stl10,
    "npz": npz.read,
}
_JPEG75 = "cifar10-jpeg75"
_FOLDER = "folder"


def names() -> tuple[str, ...]:
    r"""What `load` knows; `NAME` in the last one stands for a data set of the hub.

    Example:
        >>> names()[:3]
        ('fashion-mnist-subset', 'mnist', 'fashion-mnist')
    """
    return (embedded.NAME, *_READERS, _JPEG75, _FOLDER, f"{hub.PREFIX}NAME")


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    holdout: Holdout | None = None,
    shape: tuple[int, int, int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Dataset:
    r"""The data set called `name`, on the CPU.

    Args:
        name: one of `names()`.
        data_dir: the folder with its original files, or the one archive or npz file; none for the
            embedded subset; for a data set of the hub where to keep its files, if wanted.
        holdout: which images to test on, for images by class or from the hub that come without a
            test split.
        shape: channels, height and width to bring images by class or from the hub to: scaled until
            they cover it and cropped around the middle; without it, all must be of one size.
        on_progress: called with the number of images decoded so far, where there are single
            images to decode; all else is read at once.

    Returns:
        Its train and test splits.

    Raises:
        ValueError: if the name is unknown, `data_dir`, `holdout` or `shape` is missing or
            superfluous, or a file is malformed.
        FileNotFoundError: if a file is missing; says which, where and how to get it.
        ModuleNotFoundError: if the hub is asked for without the extra `hub`.

    Example:
        >>> data = load("fashion-mnist-subset")
        >>> len(data.train), len(data.test), data.input_shape
        (2000, 1000, (1, 28, 28))
    """
    path = None if data_dir is None else Path(data_dir).expanduser()
    if name.startswith(hub.PREFIX) and len(name) > len(hub.PREFIX):
        bare = name.removeprefix(hub.PREFIX)
        return hub.read(
            bare,
            cache_dir=path,
            holdout=holdout,
            shape=checked_shape(shape),
            on_progress=on_progress,
        )
    if name not in names():
        raise ValueError(f"`name` must be one of {', '.join(names())}; got {name!r}.")
    if name != _FOLDER:
        _refuse(name, holdout, shape)
    if name == embedded.NAME:
        if path is not None:
            raise ValueError(f"`data_dir` must be None for {name}, it is built in; got {path}.")
        return embedded.read()
    if path is None:
        raise ValueError(f"`data_dir` must be the folder with the files of {name}; got None.")
    if not path.exists() and name in (_FOLDER, "npz"):
        raise missing(f"`data_dir` of {name}", path, "Give the folder or the file itself.")
    if name == _FOLDER:
        shape = checked_shape(shape)
        return images.folder(path, holdout=holdout, shape=shape, on_progress=on_progress)
    if name == _JPEG75:
        return images.cifar10_jpeg75(path, on_progress=on_progress)
    return _READERS[name](path)


def _refuse(name: str, holdout: Holdout | None, shape: tuple[int, int, int] | None) -> None:
    """Refuse what only images by class can be asked for."""
    if shape is not None:
        raise ValueError(f"`shape` must be None for {name}, its images have one; got {shape}.")
    if holdout is not None:
        raise ValueError(f"`holdout` must be None for {name}, it has a test split; got {holdout}.")
