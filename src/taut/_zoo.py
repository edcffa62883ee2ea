"""Trained models by name; a manifest holds the SHA-256 of each of their files."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from taut.kinds import did_you_mean

PREFIX = "zoo:"
MIRROR = "TAUT_ZOO"  # a folder, or an address that begins with https://
_INSTALLED = Path(__file__).parent / "zoo"
_CHECKOUT = Path(__file__).parents[2] / "zoo"
_MANIFEST = "manifest.json"


def manifest() -> dict[str, dict[str, Any]]:
    """By name: data, shape of one input, bound, accuracies, and the SHA-256 of each file.

    Example:
        >>> sorted(manifest()["mnist-small"]["files"])[:2]
        ['card.md', 'certificate.json']
    """
    folder = _INSTALLED if (_INSTALLED / _MANIFEST).is_file() else _CHECKOUT
    return json.loads((folder / _MANIFEST).read_text())


def is_zoo_name(path: str | os.PathLike[str]) -> bool:
    """Whether this is `zoo:` and a name, not a path.

    Example:
        >>> is_zoo_name("zoo:mnist-small"), is_zoo_name("runs/demo")
        (True, False)
    """
    return str(path).startswith(PREFIX)


def located(path: str | os.PathLike[str]) -> Path:
    """The path of the weights of a model of the zoo; any other path as it is.

    Example:
        >>> located("runs/demo").name
        'demo'
    """
    return zoo_file(path) if is_zoo_name(path) else Path(path)


def zoo_file(path: str | os.PathLike[str], file: str = "model.safetensors") -> Path:
    """The path of a file of a model of the zoo, whose SHA-256 is that of the manifest.

    The smallest models are part of the package. The others are read from the folder `zoo` of the
    repository, or from where the environment variable `TAUT_ZOO` says: another such folder, or the
    https address of one, from which each file is fetched once.

    Args:
        path: `zoo:` and a name.
        file: the name of one of the files of the model.

    Raises:
        ValueError: if there is no such model, or a file has another hash.
        FileNotFoundError: if the file is not here, or cannot be fetched.

    Example:
        >>> zoo_file("zoo:mnist-small").suffix
        '.safetensors'
    """
    name, known = str(path).removeprefix(PREFIX), manifest()
    if name not in known:
        names = [PREFIX + each for each in known]
        hint = did_you_mean(PREFIX + name, names)
        raise ValueError(f"The zoo has {', '.join(names)}; got {path}.{hint}")
    wanted = known[name]["files"][file]
    local = _local(name, file, wanted)
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    if digest != wanted:
        raise ValueError(f"{local} is not the file of the zoo: its SHA-256 is {digest}.")
    return local


def zoo_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the classes of a model of the zoo.

    Example:
        >>> zoo_classes("zoo:mnist-small")[:2]
        ('0', '1')
    """
    return tuple(manifest()[str(path).removeprefix(PREFIX)]["classes"])


def _local(name: str, file: str, wanted: str) -> Path:
    """Where a file is on this machine; fetched if `TAUT_ZOO` is an address."""
    mirror = os.environ.get(MIRROR, "")
    if mirror.startswith("https://"):
        return _fetched(f"{mirror.rstrip('/')}/{name}/{file}", wanted)
    folders = [Path(mirror)] if mirror else [_INSTALLED, _CHECKOUT]
    for folder in folders:
        if (folder / name / file).is_file():
            return folder / name / file
    raise FileNotFoundError(
        f"{file} of {PREFIX}{name} is not here: set {MIRROR} to the folder `zoo` of a copy of the "
        "repository, or to the https address of one."
    )


def _fetched(address: str, wanted: str) -> Path:
    """The local copy of a file, fetched if there is none."""
    local = Path(torch.hub.get_dir(), "taut", wanted[:16], address.rpartition("/")[2])
    if not local.is_file():
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(local), wanted, progress=False)
        except OSError as error:
            raise FileNotFoundError(f"{address} cannot be fetched: {error}.") from error
        except RuntimeError as error:  # the hash is another one
            raise ValueError(f"{address} is not the file of the zoo: {error}.") from error
    return local
