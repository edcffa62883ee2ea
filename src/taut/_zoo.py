"""Trained models by name: those of the zoo, whose files a manifest names by their hashes."""

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
    """What there is by name: data, shape of one input, bound, accuracies, hashes of the files.

    Example:
        >>> sorted(manifest()["mnist-small"]["files"])[:2]
        ['card.md', 'certificate.json']
    """
    folder = _INSTALLED if (_INSTALLED / _MANIFEST).is_file() else _CHECKOUT
    return json.loads((folder / _MANIFEST).read_text())


def is_zoo_name(path: str | os.PathLike[str]) -> bool:
    """Whether this is `zoo:` and a name, not a place.

    Example:
        >>> is_zoo_name("zoo:mnist-small"), is_zoo_name("runs/demo")
        (True, False)
    """
    return str(path).startswith(PREFIX)


def located(path: str | os.PathLike[str]) -> Path:
    """The file of a model of the zoo, or the place itself.

    Example:
        >>> located("runs/demo").name
        'demo'
    """
    return zoo_file(path) if is_zoo_name(path) else Path(path)


def zoo_file(path: str | os.PathLike[str], file: str = "model.safetensors") -> Path:
    """A file of a model of the zoo, on this machine, with the hash that the manifest names.

    The two smallest models are part of the package; the others are in the folder `zoo` of the
    repository, or where the environment variable `TAUT_ZOO` says: a folder like it, or an https
    address of one, from which files are fetched once.

    Args:
        path: `zoo:` and a name.
        file: of those that belong to the model.

    Raises:
        ValueError: if there is no such model, or a file has another hash.
        FileNotFoundError: if the file is not here.

    Example:
        >>> zoo_file("zoo:mnist-small").suffix
        '.safetensors'
    """
    name, known = str(path).removeprefix(PREFIX), manifest()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"`path` must be one of zoo:{', zoo:'.join(known)}; got {path}.{hint}")
    wanted = known[name]["files"][file]
    place = _found(name, file, wanted)
    found = hashlib.sha256(place.read_bytes()).hexdigest()
    if found != wanted:
        raise ValueError(f"{place} is not the file of the zoo: its SHA-256 is {found}.")
    return place


def zoo_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the classes of a model of the zoo.

    Example:
        >>> zoo_classes("zoo:mnist-small")[:2]
        ('0', '1')
    """
    return tuple(manifest()[str(path).removeprefix(PREFIX)]["classes"])


def _found(name: str, file: str, wanted: str) -> Path:
    mirror = os.environ.get(MIRROR, "")
    if mirror.startswith("https://"):
        kept = Path(torch.hub.get_dir(), "taut", wanted[:16], file)
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            address = f"{mirror.rstrip('/')}/{name}/{file}"
            torch.hub.download_url_to_file(address, str(kept), wanted, progress=False)
        return kept
    folders = [Path(mirror)] if mirror else [_INSTALLED, _CHECKOUT]
    for folder in folders:
        if (folder / name / file).is_file():
            return folder / name / file
    raise FileNotFoundError(
        f"{file} of {PREFIX}{name} is not here: set {MIRROR} to the folder `zoo` of a copy of the "
        "repository, or to the https address of one."
    )
