r"""Tiny-ImageNet as it is published: test labels in a file, pictures below their class."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from taut.data._archive import Parts, Place
from taut.data._checks import missing
from taut.data._folders import LABELS_FILE, Arrangement, Tell, arrange, dataset_of, read_pictures
from taut.data._named import NAMED, TINY_IMAGENET
from taut.data._pixels import Shape
from taut.data._sets import Dataset

_T = TypeVar("_T")
_CLASSES = 200
_PICTURES = {"train": 100_000, "test": 10_000}  # as published; tested on val


def load_tiny_imagenet(path: Path, shape: Shape | None, tell: Tell, *, draft: bool) -> Dataset:
    """Its training and validation pictures; those of test have no labels and are left out."""
    source = locate(path)
    arrays = read_pictures(source, shape, tell, draft=draft, arranged=arrange_tiny_imagenet)
    return dataset_of(TINY_IMAGENET, arrays, None, source)


def locate(path: Path) -> Path:
    """The folder that holds train and val: the path, or what the archive unpacks to below it."""
    for folder in (path, path / "tiny-imagenet-200"):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return folder
    how = f"{NAMED[TINY_IMAGENET].how} Unpack it."
    raise missing("The folders train and val of Tiny-ImageNet", path, how)


def arrange_tiny_imagenet(
    source: Path, take: Callable[[Place], _T], *, streamed: bool
) -> tuple[Arrangement, list[_T]]:
    """All labelled pictures, each passed through `take`, and their arrangement."""
    by_class = partial(_by_class, _labels(source / "val" / LABELS_FILE), source)
    arranged, taken = arrange(source, take, streamed=streamed, by_class=by_class)
    if len(arranged.classes) != _CLASSES or "all" in arranged.parts:
        where = "train and val" if "train" in arranged.parts else "one of the two alone"
        raise ValueError(
            f"{source}: train and val must have the {_CLASSES} classes of Tiny-ImageNet; got "
            f"{len(arranged.classes)} in {where}."
        )
    whole = {part: len(labels) for part, (_, labels) in arranged.parts.items()} == _PICTURES
    label = NAMED[TINY_IMAGENET].label + ("" if whole else " (not the published files)")
    return arranged._replace(label=label), taken


def _labels(file: Path) -> dict[str, str]:
    """The class of each validation picture; none where they lie in the folders of their classes."""
    if not file.is_file():
        return {}
    try:
        rows = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: must be text; got {error}.") from None
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        name, *values = row.split("\t")
        if not row.strip():
            continue
        if not values:
            raise ValueError(f"{file}: line {number} must be a picture, a tab and its class.")
        if labels.setdefault(name, values[0]) != values[0]:
            raise ValueError(f"{file}: line {number} gives {name} a second class.")
    return labels


def _by_class(labels: dict[str, str], source: Path, parts: Parts) -> Parts | None:
    """PART/CLASS/FILE of a picture; folders as they are; None for what is left out."""
    if parts[0] not in ("train", "val") or parts[-1] == "images":
        return None
    if len(parts) < 3 or parts[-2] != "images":
        return parts
    *above, _, name = parts
    if len(above) > 1:
        return *above, name
    if name not in labels:
        raise ValueError(f"{source / Path(*parts)}: has no label in {LABELS_FILE}.")
    return *above, labels[name], name
