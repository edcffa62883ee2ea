r"""Published data sets: one table of facts, `named.toml`, and one reader."""

import hashlib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, final

import torch

from taut.data._archive import Place, files_called
from taut.data._checks import Data, checked_split, missing
from taut.data._formats import PARSERS, read_idx
from taut.data._npz import read_arrays
from taut.data._sets import Dataset, Split

EMBEDDED, EMBEDDED_FILE = "fashion-mnist-subset", "fashion_mnist_subset.npz"
JPEG75 = "cifar10-jpeg75"


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


def _table() -> dict[str, NamedSet]:
    text = resources.files("taut.data").joinpath("named.toml").read_text()
    rows: dict[str, Any] = tomllib.loads(text)
    return {
        name: NamedSet(**row | {"forms": [Form(**form) for form in row.get("forms", ())]})
        for name, row in rows.items()
    }


NAMED = _table()


def read_named(name: str, path: Path) -> Dataset:
    """A data set of the table from its folder or archive."""
    known = NAMED[name]
    form, places, where = _locate(known, path)
    for file in form.files:
        if file not in places:
            raise missing(file, where, known.how)
    read = read_idx if form.format == "idx" else Place.read
    contents = {file: read(places[file]) for file in form.files}
    label = known.label if _is_published(name, contents, places) else f"{known.label} {_OTHER}"
    splits = []
    for groups in (form.train, form.test):
        parsed = []
        for group in groups:
            sources = [places[file] for file in group]
            try:
                images, labels = PARSERS[form.format]([contents[file] for file in group])
            except ValueError as error:
                raise ValueError(f"{sources[0]}: {error}") from error
            parsed.append(checked_split(images, labels, len(known.classes), sources[-1]))
        images, labels = [part.images for part in parsed], [part.labels for part in parsed]
        splits.append(Split(torch.cat(images), torch.cat(labels)))
    return Dataset(name, label, tuple(known.classes), *splits)


_OTHER = "(not the published files)"


def _locate(known: NamedSet, path: Path) -> tuple[Form, dict[str, Place], Path]:
    """The form found at `path`, its files as far as they are there, and where they are."""
    for form in known.forms:
        for folder in (path, path / form.folder):
            places = {name: Place(file) for name in form.files for file in _spelled(folder, name)}
            if places:
                return form, places, folder
    for form in known.forms:
        archive = path if path.is_file() else path / form.archive
        if form.archive and archive.is_file():
            places = files_called(archive, form.files)
            if places:
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
    same = True
    for file in NAMED[name].hashes.keys() & contents.keys():
        expected = NAMED[name].hashes[file]
        kind = "md5" if len(expected) == 32 else "sha256"
        digest = hashlib.new(kind, contents[file], usedforsecurity=False).hexdigest()
        same = same and digest == expected
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
    file = resources.files("taut.data").joinpath("embedded", EMBEDDED_FILE)
    with resources.as_file(file) as path:
        arrays = read_arrays(path)
    train, test = (
        checked_split(arrays[f"x_{part}"][:, None], arrays[f"y_{part}"], len(known.classes), path)
        for part in ("train", "test")
    )
    return Dataset(EMBEDDED, known.label, tuple(known.classes), train, test)
