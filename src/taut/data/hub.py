r"""Image classification data sets of the Hugging Face hub."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taut.data.checked import checked_split
from taut.data.holdout import Holdout, check_holdout
from taut.data.pixels import Shape, stack, to_array
from taut.data.sets import Dataset, Split

PREFIX = "hub:"


def read(
    name: str,
    *,
    cache_dir: Path | None,
    holdout: Holdout | None,
    shape: Shape | None = None,
    on_progress: Callable[[int], None] | None,
) -> Dataset:
    r"""The data set `name` of the hub, through the library `datasets`.

    It must have one column of images, and one of class labels or one called `label`. The split
    `test` is used for testing, `validation` where there is none.

    Args:
        name: for example "mnist" or "user/name", or the path of a local folder it can read.
        cache_dir: where `datasets` keeps its files; None for its own choice.
        holdout: which images to test on where there is no test split.
        shape: to bring all images to; see :func:`taut.data.load`.
        on_progress: called with the number of images decoded so far.

    Returns:
        The data set.

    Raises:
        ModuleNotFoundError: if the library is not installed.
        ValueError: if the columns or splits are not as above, or an image has another size.
    """
    parts = open_parts(name, cache_dir)
    train, test = choose_parts(name, parts, holdout)
    source = f"{PREFIX}{name}"
    columns, classes = columns_of(parts["train"], source)
    read = partial(_split, columns=columns, classes=len(classes), shape=shape, tell=on_progress)
    pool = read(train, source=f"{source}: train")
    if holdout is not None:
        return Dataset(source, name, classes, *holdout.split(pool))
    return Dataset(source, name, classes, pool, read(test, source=f"{source}: test"))


def open_parts(name: str, cache_dir: Path | None) -> Any:
    r"""The splits of a data set by name, on disk.

    Raises:
        ModuleNotFoundError: if the library is not installed.
    """
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{PREFIX}{name} needs the library `datasets`: pip install 'taut[hub]'."
        ) from error
    where = None if cache_dir is None else str(cache_dir)
    return library.load_dataset(name, cache_dir=where)


def choose_parts(name: str, parts: Any, holdout: Holdout | None) -> tuple[Any, Any]:
    r"""The split to train on and the one to test on; None where some are to be held out.

    Raises:
        ValueError: if there is no such split, or `holdout` is missing or superfluous.
    """
    source = f"{PREFIX}{name}"
    chosen = next((part for part in ("test", "validation") if part in parts), None)
    if "train" not in parts or (chosen is None and holdout is None):
        raise ValueError(
            f"{source}: must have a split train and a split test or validation (or pass "
            f"`holdout`); got {', '.join(parts)}."
        )
    check_holdout(holdout, source, has_test=chosen is not None)
    return parts["train"], None if chosen is None else parts[chosen]


def columns_of(rows: Any, source: str) -> tuple[tuple[str, str], tuple[str, ...]]:
    r"""The columns of images and of labels, and the names of the classes."""
    columns = _columns(rows.features, source)
    return columns, tuple(rows.features[columns[1]].names)


def _columns(features: dict[str, Any], source: str) -> tuple[str, str]:
    images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    labels = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    if "label" in labels:
        labels = ["label"]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{source}: must have one column of images and one of class labels; "
            f"got {images or 'none'} and {labels or 'none'}."
        )
    return images[0], labels[0]


def _split(
    rows: Any,
    *,
    source: str,
    columns: tuple[str, str],
    classes: int,
    shape: Shape | None,
    tell: Callable[[int], None] | None,
) -> Split:
    image, label = columns
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    for row in rows:
        pixels.append(to_array(row[image], f"{source}: image {len(pixels)}", shape))
        labels.append(row[label])
        if tell is not None:
            tell(len(pixels))
    if not pixels:
        raise ValueError(f"{source}: has no image.")
    stacked = stack(pixels, [f"{source}: image {at}" for at in range(len(pixels))])
    return checked_split(stacked, np.array(labels), classes, source)
