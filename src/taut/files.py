"""Atomic, crash-safe file writes, and tensors with a checksum."""

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

_CHECKSUM = "sha256"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically: readers see the old content or the new, even after a crash.

    Args:
        path: the file; its folder exists.
        content: all of it.

    Raises:
        OSError: if the folder cannot be written to or the disk is full; the error names the file.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder, "a.txt"), b"new")
        ...     Path(folder, "a.txt").read_text(), len(os.listdir(folder))
        ('new', 1)
    """
    try:
        # In the same folder: a rename is only atomic within one file system.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
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
    except OSError as error:
        # Name the file that was asked for, not the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from None


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed writers of `path` left; no writer may be active.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, ".a.txt.x1y2").touch()
        ...     remove_leftovers(Path(folder, "a.txt"))
        ...     os.listdir(folder)
        []
    """
    for leftover in path.parent.glob(f"{glob.escape(_prefix(path))}*"):
        leftover.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text atomically to a safetensors file, with a checksum.

    Equal content gives equal bytes.

    Args:
        path: the file; its folder exists.
        tensors: on any device, of any strides.
        metadata: text for the header.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tensors(Path(folder, "a"), {"x": torch.ones(2)}, {"step": "3"})
        ...     load_tensors(Path(folder, "a"))
        ({'x': tensor([1., 1.])}, {'step': '3'})
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata | {_CHECKSUM: _checksum(plain, metadata)})
    write_atomically(path, _in_order(content))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of `save_tensors`, or any other safetensors file, which has no checksum.

    Returns:
        The tensors on the CPU, and the text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, even by one bit; the message names it.

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
            # Cloned: the file may be replaced while its tensors live.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None
    checksum = metadata.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, metadata):
        raise ValueError(f"{path} is damaged: its numbers are not those that were written.")
    return tensors, metadata


def rounded_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that the model would round, which `load_state_dict` does silently.

    Example:
        >>> rounded_tensors(nn.Linear(1, 1), {"weight": torch.tensor([[0.1]]).double()})
        []
        >>> rounded_tensors(nn.Linear(1, 1), {"weight": torch.tensor([[0.1]], dtype=torch.float64)})
        ['weight']
    """
    own = model.state_dict()
    pairs = {name: (tensor, own[name].dtype) for name, tensor in tensors.items() if name in own}
    exact = {name: torch.where(t == t, t, 0) for name, (t, _) in pairs.items()}  # NaN stays NaN
    return [name for name, t in exact.items() if not torch.equal(t.to(pairs[name][1]).to(t), t)]


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """As `model.load_state_dict`, with a one-sentence error if something does not fit.

    Raises:
        ValueError: naming the file, three of the keys that are missing and of those that are too
            many, or a tensor of another shape.

    Example:
        >>> load_state(nn.Linear(1, 1), {"fc.weight": torch.ones(1, 1)}, Path("a.pt"))
        Traceback (most recent call last):
        ValueError: a.pt does not fit the model: it has no bias, weight; it has fc.weight instead.
    """
    own = model.state_dict()
    missing, extra = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if missing or extra:
        instead = " instead" if missing and extra else ", which the model lacks"
        said = [f"it has no {_few(missing)}"] * bool(missing)
        said += [f"it has {_few(extra)}{instead}"] * bool(extra)
        raise ValueError(f"{path} does not fit the model: {'; '.join(said)}.")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            shapes = (tuple(one.shape) for one in (tensor, own[name]))
            raise ValueError(
                "{} does not fit the model: {} is {} there, and {} in the model.".format(
                    path, name, *shapes
                )
            )
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:  # of a module that reads its state in a way of its own
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit the model ({reason}).") from None


def _few(names: Collection[str]) -> str:
    """Three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def tensors_under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, named without it.

    Example:
        >>> tensors_under({"model.x": torch.ones(1), "step": torch.ones(1)}, "model.")
        {'x': tensor([1.])}
    """
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str = "") -> dict[str, Tensor]:
    """The state of an optimiser, as tensors called INDEX.NAME after a prefix.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> sgd = torch.optim.SGD([x], momentum=0.9)
        >>> x.sum().backward(); sgd.step()
        >>> optimiser_tensors(sgd, "sgd.")
        {'sgd.0.momentum_buffer': tensor([1.])}
    """
    return {
        f"{prefix}{index}.{name}": value
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }


def optimiser_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The state of an optimiser from tensors called INDEX.NAME.

    Example:
        >>> optimiser_state({"0.momentum_buffer": torch.ones(1)})
        {0: {'momentum_buffer': tensor([1.])}}
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A hash of names, precisions, shapes, numbers and text."""
    shapes = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    digest = hashlib.sha256(json.dumps([metadata, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _in_order(content: bytes) -> bytes:
    """The file with the keys of its header sorted, which safetensors writes in any order."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":"))
    padded = header.encode() + b" " * (-len(header.encode()) % 8)  # numbers begin at a multiple
    return len(padded).to_bytes(8, "little") + padded + content[start:]


def _prefix(path: Path) -> str:
    """The beginning of the names of a writer's temporary files."""
    return f".{path.name}."


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
