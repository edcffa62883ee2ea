r"""Decoded images kept in the user's cache folder, never beside the code."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from taut.files import write_atomically

# Part of every key: raise it when what is stored changes its meaning.
_FORMAT = 1


def cache_dir() -> Path:
    r"""The folder named by the environment variable `TAUT_CACHE`, or `~/.cache/taut`.

    Example:
        >>> isinstance(cache_dir(), Path)
        True
    """
    return Path(os.environ.get("TAUT_CACHE") or Path.home() / ".cache" / "taut").expanduser()


def key(files: Iterable[Path]) -> str:
    r"""A name that changes with the path, the size or the time of change of any of the files.

    Example:
        >>> len(key([]))
        64
    """
    digest = hashlib.sha256(f"taut data {_FORMAT}\n".encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{path.resolve()}\n{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def fetch(name: str) -> dict[str, np.ndarray] | None:
    r"""The arrays stored under `name`, or None where there are none or they are damaged.

    Example:
        >>> fetch("of a file never read") is None
        True
    """
    try:
        with (
            (cache_dir() / f"{name}.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            return dict(arrays)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return None


def store(name: str, arrays: dict[str, np.ndarray]) -> None:
    r"""Stores the arrays under `name`, in one step; does nothing where the folder is not writable.

    Args:
        name: a `key`.
        arrays: what `fetch` is to return.

    Example:
        >>> import tempfile
        >>> from unittest import mock
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with mock.patch.dict(os.environ, TAUT_CACHE=folder):
        ...         store("name", {"x": np.arange(3)})
        ...         fetch("name")
        {'x': array([0, 1, 2])}
    """
    target = cache_dir() / f"{name}.npz"
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    # A cache that cannot be written costs time, not correctness: the data is read all the same.
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content.getvalue())
