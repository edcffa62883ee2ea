"""Files that are either the old or the new one, whenever the power goes."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a reader, and a crash, see the old content or the new.

    Args:
        path: the file; its folder exists.
        content: all of it.

    Raises:
        OSError: if the folder cannot be written to; the error names the file.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder, "a.txt"), b"new")
        ...     Path(folder, "a.txt").read_text(), len(os.listdir(folder))
        ('new', 1)
    """
    # In the same folder: a rename is only atomic within one file system.
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        # Of the file that was asked for, not of the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes tensors and text as one safetensors file, atomically.

    Args:
        path: the file; its folder exists.
        tensors: on any device, of any strides.
        metadata: text kept in the header.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tensors(Path(folder, "a"), {"x": torch.ones(2)}, {"step": "3"})
        ...     load_tensors(Path(folder, "a"))
        ({'x': tensor([1., 1.])}, {'step': '3'})
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads what `save_tensors` wrote.

    Args:
        path: the file.

    Returns:
        The tensors on the CPU, and the text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged; the message names it.

    Example:
        >>> load_tensors(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: There is no file nowhere.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())  # not a mapping: it has no iterator
            # Cloned: what is loaded must not be a view of a mapped file.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
