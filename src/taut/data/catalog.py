r"""Data sets by name."""

import os
from collections.abc import Callable
from pathlib import Path

from taut.data import embedded, idx
from taut.data.sets import Dataset

_READERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist": idx.mnist,
    "fashion-mnist": idx.fashion_mnist,
}


def names() -> tuple[str, ...]:
    r"""What `load` knows.

    Example:
        >>> "mnist" in names()
        True
    """
    return ("fashion-mnist-subset", *_READERS)


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    r"""The data set called `name`, on the CPU.

    Args:
        name: one of `names()`.
        data_dir: the folder with its original files; the embedded subset needs none.

    Returns:
        Its train and test splits.

    Raises:
        ValueError: if the name is unknown, `data_dir` is missing or superfluous, or a file is
            malformed.
        FileNotFoundError: if a file is missing; says which and how to get it.

    Example:
        >>> data = load("fashion-mnist-subset")
        >>> len(data.train), len(data.test), data.input_shape
        (2000, 1000, (1, 28, 28))
    """
    if name == embedded.NAME:
        if data_dir is not None:
            raise ValueError(f"`data_dir` must be None for {name}, it is built in; got {data_dir}.")
        return embedded.read()
    if name not in _READERS:
        raise ValueError(f"`name` must be one of {', '.join(names())}; got {name!r}.")
    if data_dir is None:
        raise ValueError(f"`data_dir` must be the folder with the files of {name}; got None.")
    return _READERS[name](Path(data_dir).expanduser())
