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
_FORMAT = 2


def _file(name: str) -> Path:
    folder = os.environ.get("TAUT_CACHE") or Path.home() / ".cache" / "taut"
    return Path(folder).expanduser() / f"{name}.npz"


def key(files: Iterable[Path]) -> str:
    """A name that changes with the path, the size or the time of change of any of the files."""
    digest = hashlib.sha256(f"taut data {_FORMAT}\n".encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{path.resolve()}\n{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def fetch(name: str) -> dict[str, np.ndarray] | None:
    """The arrays stored under `name`, or None where there are none or they are damaged."""
    try:
        with _file(name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return None


def store(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Store arrays for `fetch`, in one step; no-op where the folder is not writable."""
    target, content = _file(name), io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    # A cache that cannot be written costs time, not correctness: the data is read all the same.
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content.getvalue())
