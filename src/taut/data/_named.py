r"""Published data sets: one table of facts, `named.toml`, and one reader."""

import hashlib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import final

import torch

from taut.data._archive import Place, files_called
from taut.data._checks import Data, checked_split, missing
from taut.data._formats import PARSERS, read_idx
from taut.data._npz import read_arrays
from taut.data._sets import Dataset, Split

_FILES = resources.files("taut.data")
EMBEDDED, EMBEDDED_FILE = "fashion-mnist-subset", "fashion_mnist_subset.npz"
JPEG75, TINY_IMAGENET = "cifar10-jpeg75", "tiny-imagenet"


@final
@dataclass(frozen=True)
class Form:
    """One of the forms in which a data set is published."""

    format: str
    train: list[list[str]]  # groups of files that are parsed together
    test: list[list[str]]
    folder: str = ""  # that the archive unpacks to
    archive: str = ""  # "" where the files are published one by one

    @property
    def files(self) -> list[str]:
        """The names of all files."""
        return [name for group in (*self.train, *self.test) for name in group]


@final
@dataclass(frozen=True)
class NamedSet:
    """What is known of a published data set."""

    label: str
    classes: list[str]
    licence: str
    url: str
    forms: list[Form] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def how(self) -> str:
        """How to get it."""
        files = " or ".join(form.archive or ", ".join(form.files) for form in self.forms)
        return f"Download {files or 'it'} from {self.url} (licence: {self.licence})."


NAMED = {
    name: NamedSet(**row | {"forms": [Form(**form) for form in row.get("forms", ())]})
    for name, row in tomllib.loads((_FILES / "named.toml").read_text()).items()
}


def read_named(name: str, path: Path) -> Dataset:
    """A data set of the table from its folder or archive."""
    known = NAMED[name]
    form, places, where = _locate(known, path)
    for file in form.files:
        if file not in places:
            raise missing(file, where, known.how)
    read = read_idx if form.format == "idx" else Place.read
    contents = {file: read(places[file]) for file in form.files}
    published = _is_published(name, contents, places)

    def parse(group: list[str]) -> Split:
        try:
            images, labels = PARSERS[form.format]([contents[file] for file in group])
        except ValueError as error:
            raise ValueError(f"{places[group[0]]}: {error}") from error
        return checked_split(images, labels, len(known.classes), places[group[-1]])

    def joined(parts: list[Split]) -> Split:
        return Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))

    label = known.label if published else f"{known.label} (not the published files)"
    splits = (joined([parse(group) for group in groups]) for groups in (form.train, form.test))
    return Dataset(name, label, tuple(known.classes), *splits)


def _locate(known: NamedSet, path: Path) -> tuple[Form, dict[str, Place], Path]:
    """The form found at `path`, its files as far as they are there, and where they are."""
    for form in known.forms:
        for folder in (path, path / form.folder):
            places = {name: Place(file) for name in form.files for file in _spelled(folder, name)}
            if places:
                return form, places, folder
    for form in known.forms:
        archive = path if path.is_file() else path / form.archive
        if form.archive and archive.is_file() and (places := files_called(archive, form.files)):
            return form, places, archive
    what = " or ".join(form.archive or form.files[0] for form in known.forms)
    raise missing(what, path, known.how)


def _spelled(folder: Path, name: str) -> list[Path]:
    """The file, if it is there; idx files have four spellings."""
    names = [name]
    if "-idx" in name:
        names += [f"{name}.gz", (other := name.replace("-idx", ".idx")), f"{other}.gz"]
    return [folder / name for name in names if (folder / name).is_file()][:1]


def _is_published(name: str, contents: dict[str, Data], places: dict[str, Place]) -> bool:
    """Whether no file differs from the published one; files of another set are refused."""
    same, hashes = True, NAMED[name].hashes
    for file in hashes.keys() & contents.keys():
        kind = "md5" if len(hashes[file]) == 32 else "sha256"
        digest = hashlib.new(kind, contents[file], usedforsecurity=False).hexdigest()
        same = same and digest == hashes[file]
        for other, its in NAMED.items():
            if other != name and its.hashes.get(file) == digest:
                raise ValueError(
                    f"{places[file]}: is a file of {its.label}, not of {NAMED[name].label}; "
                    f"load it as {other}."
                )
    return same


def read_embedded() -> Dataset:
    """The first 200 training and 100 test images of each class of Fashion-MNIST, in its order."""
    known = NAMED[EMBEDDED]
    with resources.as_file(_FILES / "embedded" / EMBEDDED_FILE) as path:
        arrays = read_arrays(path)
    train, test = (
        checked_split(arrays[f"x_{part}"][:, None], arrays[f"y_{part}"], len(known.classes), path)
        for part in ("train", "test")
    )
    return Dataset(EMBEDDED, known.label, tuple(known.classes), train, test)
