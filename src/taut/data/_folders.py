r"""Images sorted into one folder a class, on disk or in tar archives."""

import hashlib
import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from taut.data._archive import Parts, Place, below, members
from taut.data._checks import TEST_PARTS, TRAIN_PARTS, checked_split, missing, only_file
from taut.data._holdout import Holdout, check_holdout
from taut.data._named import JPEG75, NAMED
from taut.data._pixels import Change, Shape, Tally, check_format, decode, is_picture, stack
from taut.data._sets import Dataset
from taut.files import write_atomically

_HOW = "Expected {train,test}/<class>/*.jpg or other pictures, in a folder or a tar archive."
LABELS_FILE = "val_annotations.txt"  # of Tiny-ImageNet
_CACHE_FORMAT = 3  # part of every key: raise it when what is stored changes its meaning
_T = TypeVar("_T")
Tell = Callable[[int], None] | None
Picture = tuple[np.ndarray, str]  # uint8 pixels (c, h, w), and where they are from


class AbstractPictures(ABC):
    """Pictures by number, decoded when they are asked for."""

    @abstractmethod
    def __call__(self, at: int, change: Change | None = None) -> Picture:
        """The pixels and the name of a picture, changed before it is brought to its shape."""

    @property
    @abstractmethod
    def packed(self) -> int:
        """Bytes on disk, as far as is known."""


class Arrangement(NamedTuple):
    """Which pictures train and which test, and in which order."""

    label: str  # how reports name the data set
    classes: tuple[str, ...]
    parts: dict[str, tuple[Tensor, Tensor]]  # indices and labels of "train" and "test", or "all"

    def divided(self, holdout: Holdout | None, source: object) -> list[tuple[Tensor, Tensor]]:
        """The train and the test part, held out of all where there is no test part."""
        check_holdout(holdout, source, has_test="all" not in self.parts)
        if holdout is None:
            return [self.parts["train"], self.parts["test"]]
        which, labels = self.parts["all"]
        return [(which[chosen], labels[chosen]) for chosen in holdout.choose(len(labels))]


def arrange(
    source: Path,
    take: Callable[[Place], _T],
    *,
    streamed: bool,
    by_class: Callable[[Parts], Parts | None] = lambda parts: parts,
) -> tuple[Arrangement, list[_T]]:
    """All pictures of a folder or an archive, each passed through `take`, and their arrangement.

    `by_class` brings the path of a file or a folder to PART/CLASS/FILE; None leaves it out.
    """
    names: list[Parts] = []
    taken: list[_T] = []
    folders: list[Parts] = []
    for path, place in members(source, is_picture, streamed=streamed):
        parts = by_class(path)
        if parts is None:
            continue
        if place is None:
            folders.append(parts)
            continue
        if len(parts) < 2:
            raise ValueError(f"{source}: {''.join(parts)} must lie in the folder of its class.")
        check_format(parts[-1], place)
        names.append(parts)
        taken.append(take(place))
    if not names:
        raise missing("An image", source, _HOW)
    part_of, remark = _roots({name[:-2] for name in names}, source)
    classes = _classes(names, folders)
    parts = {}
    for part in sorted(set(part_of.values())):
        chosen = [at for at, name in enumerate(names) if part_of.get(name[:-2]) == part]
        parts[part] = _in_turns(names, chosen, classes, f"in {part}", source)
    return Arrangement(source.resolve().name + remark, classes, parts), taken


def _roots(roots: set[Parts], source: Path) -> tuple[dict[Parts, str], str]:
    """The part of each folder that holds classes and is used, and a remark for the label."""
    ends = {root[-1].lower() if root else "": root for root in roots}
    trained_on = next((name for name in TRAIN_PARTS if name in ends), "")
    tested_on = next((name for name in TEST_PARTS if name in ends), "")
    others = ends.keys() - {trained_on, tested_on}
    unique = len(ends) == len(roots)
    if unique and trained_on and tested_on and others <= set(TEST_PARTS):
        remarks = [] if tested_on in ("test", "testing") else [f"tested on {ends[tested_on][-1]}"]
        remarks += [f"without {ends[name][-1]}" for name in sorted(others)]
        remark = f" ({', '.join(remarks)})" if remarks else ""
        return {ends[trained_on]: "train", ends[tested_on]: "test"}, remark
    if unique and len(ends) == 1 and not tested_on:
        return dict.fromkeys(roots, "all"), ""
    places = ", ".join(sorted("/".join(root) or "the top" for root in roots))
    raise ValueError(f"{source}: classes must lie in train and test; got them in {places}.")


def _classes(names: list[Parts], folders: list[Parts]) -> tuple[str, ...]:
    """The classes in order: also those of empty folders, which are refused later."""
    roots = {name[:-2] for name in names}
    empty = {name for *root, name in filter(None, folders) if tuple(root) in roots}
    visible = {name for name in empty if not name.startswith((".", "__"))}
    return tuple(sorted(visible | {name[-2] for name in names}))


def _in_turns(
    names: list[Parts], chosen: list[int], classes: tuple[str, ...], part: str, source: Path
) -> tuple[Tensor, Tensor]:
    """Indices and labels: the i-th picture of each class, by name, before the next of any."""
    of_class: dict[str, list[int]] = defaultdict(list)
    for at in chosen:
        of_class[names[at][-2]].append(at)
    turns = []  # so that the first n images are balanced
    for label, name in enumerate(classes):
        if name not in of_class:
            raise ValueError(f"{source}: class {name} has no image {part}.")
        ordered = sorted(of_class[name], key=lambda at: names[at][-1])
        turns += [(turn, label, at) for turn, at in enumerate(ordered)]
    turns.sort()
    return torch.tensor([at for *_, at in turns], device="cpu"), torch.tensor(
        [label for _, label, _ in turns], device="cpu"
    )


def load_folder(
    path: Path, holdout: Holdout | None, shape: Shape | None, tell: Tell, *, draft: bool = False
) -> Dataset:
    """Images by class; what was decoded is kept in the cache folder."""
    source = _locate(path)
    return dataset_of("folder", read_pictures(source, shape, tell, draft=draft), holdout, source)


def load_jpeg75(path: Path, tell: Tell) -> Dataset:
    """CIFAR-10 re-encoded as JPEG of quality 75, which is never labelled as CIFAR-10."""
    known, source = NAMED[JPEG75], _locate(path, NAMED[JPEG75].how)
    arrays = read_pictures(source, None, tell)
    if list(arrays["names"][1:]) != known.classes or "x_test" not in arrays:
        raise ValueError(f"{source}: must have train/ and test/ with the ten classes of CIFAR-10.")
    shape = arrays["x_train"].shape[1:]
    if shape != (3, 32, 32):
        raise ValueError(f"{source}: images must be of shape (3, 32, 32); got {shape}.")
    data = dataset_of(JPEG75, arrays, None, source)
    return replace(data, label=known.label)


def _locate(path: Path, how: str = _HOW) -> Path:
    """The folder of the classes, or the one archive."""
    if path.is_file() or any(entry.is_dir() for entry in path.glob("[!.]*")):
        return path
    absent = missing("A folder or tar archive of images by class", path, how)
    return only_file(path, ["*.tar", "*.tar.*", "*.tgz"], "archive", absent)


def read_pictures(
    source: Path,
    shape: Shape | None,
    tell: Tell,
    *,
    draft: bool = False,
    arranged: Callable[..., tuple[Arrangement, list[Picture]]] = arrange,
) -> dict[str, np.ndarray]:
    """The arrays of all images, from the user's cache folder if they are there, or decoded."""
    way = "" if arranged is arrange else arranged.__name__
    kept = _cache_file(source, shape, draft=draft, way=way)
    with (
        suppress(OSError, EOFError, ValueError, zipfile.BadZipFile),  # absent or damaged
        kept.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        return dict(stored)
    done, tally = 0, Tally(f"{source}: its images")

    def decoded(place: Place) -> Picture:
        nonlocal done
        data = place.read()
        pixels = decode(data, place, shape, draft=draft)
        done, pixels = done + 1, tally.counted(pixels, len(data))
        if tell is not None:
            tell(done)
        return pixels, str(place)

    arrays, content = arrays_of(*arranged(source, decoded, streamed=False)), io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    # A cache that cannot be written costs time, not correctness: the data is read all the same.
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, content.getvalue())
    return arrays


def _cache_file(source: Path, shape: Shape | None, *, draft: bool, way: str) -> Path:
    """Its name changes with the path, the size or the time of change of any of the files."""
    digest = hashlib.sha256(f"taut data {_CACHE_FORMAT}\n".encode())
    for path in [source] if source.is_file() else below(source):
        if path == source or is_picture(path.name) or path.name == LABELS_FILE:
            stat = path.stat()
            digest.update(f"{path.resolve()}\n{stat.st_size} {stat.st_mtime_ns}\n".encode())
    brought = [] if shape is None else ["x".join(map(str, shape))]
    name = "-".join([digest.hexdigest(), *brought, *["draft"] * draft, *[way] * bool(way)])
    folder = os.environ.get("TAUT_CACHE") or Path.home() / ".cache" / "taut"
    return Path(folder).expanduser() / f"{name}.npz"


def arrays_of(arranged: Arrangement, pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    """Images and labels of each part, and the names of the data set and its classes."""
    order = [at for which, _ in arranged.parts.values() for at in which.tolist()]
    pixels = stack([pictures[at][0] for at in order], [pictures[at][1] for at in order])
    arrays = {"names": np.array([arranged.label, *arranged.classes])}
    for part, (which, labels) in arranged.parts.items():
        arrays |= {f"x_{part}": pixels[: len(which)], f"y_{part}": labels.numpy()}
        pixels = pixels[len(which) :]
    return arrays


def dataset_of(
    name: str, arrays: dict[str, np.ndarray], holdout: Holdout | None, source: object
) -> Dataset:
    """The data set in what `arrays_of` made."""
    label, *classes = map(str, arrays["names"])
    check_holdout(holdout, source, has_test="x_all" not in arrays)
    splits = [
        checked_split(arrays[f"x_{part}"], arrays[f"y_{part}"], len(classes), source)
        for part in ("train", "test", "all")
        if f"x_{part}" in arrays
    ]
    train, test = splits if holdout is None else holdout.split(splits[0])
    return Dataset(name, label, tuple(classes), train, test)


def load_pictures(
    name: str,
    arranged: Arrangement,
    pictures: AbstractPictures,
    holdout: Holdout | None,
    tell: Tell,
) -> Dataset:
    """The data set of all pictures, decoded."""
    decoded: list[Picture] = []
    tally = Tally(f"{name}: its images", packed=pictures.packed)
    for at in range(sum(len(labels) for _, labels in arranged.parts.values())):
        pixels, title = pictures(at)
        decoded.append((tally.counted(pixels, 0), title))
        if tell is not None:
            tell(len(decoded))
    return dataset_of(name, arrays_of(arranged, decoded), holdout, name)
