r"""Image classification data sets of the Hugging Face hub, through the library `datasets`."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from taut.data._checks import TEST_PARTS, check_labels
from taut.data._folders import AbstractPictures, Arrangement, Picture
from taut.data._pixels import Change, Shape, broken_pictures, decode, to_array

PREFIX = "hub:"


@final
@dataclass(frozen=True)
class HubPictures(AbstractPictures):
    """Pictures by number: those to train on, then those to test on."""

    tables: tuple[Any, ...]
    column: str
    source: str
    shape: Shape | None
    draft: bool = False

    @property
    def packed(self) -> int:
        """Bytes on disk, as far as the library tells."""
        return sum(getattr(table, "dataset_size", None) or 0 for table in self.tables)

    def __call__(self, at: int, change: Change | None = None) -> Picture:
        first = len(self.tables[0])
        part, table, number = ("train", 0, at) if at < first else ("test", 1, at - first)
        name = f"{self.source}: {part}: image {number}"
        with broken_pictures(name):
            picture = self.tables[table][number][self.column]
        if isinstance(picture, dict):  # not decoded yet
            data = picture["bytes"] or Path(picture["path"]).read_bytes()
            return decode(data, name, self.shape, draft=self.draft, change=change), name
        return to_array(picture, name, self.shape, change), name


def open_hub(
    name: str, cache_dir: Path | None, shape: Shape | None, *, draft: bool = False
) -> tuple[Arrangement, HubPictures]:
    """A data set of the hub, with one column of images and one of class labels."""
    source = f"{PREFIX}{name}"
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{source} needs the library `datasets`: pip install 'taut[hub]'."
        ) from error
    splits = library.load_dataset(name, cache_dir=None if cache_dir is None else str(cache_dir))
    tested_on = next((part for part in TEST_PARTS if part in splits), None)
    if "train" not in splits:
        raise ValueError(f"{source}: must have a split train; got {', '.join(splits)}.")
    tables = {"all": splits["train"]}
    if tested_on is not None:
        tables = {"train": splits["train"], "test": splits[tested_on]}
    image, label = _columns(splits["train"].features, source)
    classes = tuple(splits["train"].features[label].names)
    parts, first = {}, 0
    for part, rows in tables.items():
        labels = torch.tensor(list(rows[label]), dtype=torch.int64, device="cpu")
        check_labels(labels.numpy(), len(classes), f"{source}: {part}")
        parts[part] = torch.arange(first, first + len(labels), device="cpu"), labels
        first += len(labels)
    title = name if tested_on in (None, "test") else f"{name} (tested on {tested_on})"
    rows = tuple(tables.values())
    if draft:  # the library would decode them whole
        rows = tuple(table.cast_column(image, library.Image(decode=False)) for table in rows)
    pictures = HubPictures(rows, image, source, shape, draft)
    return Arrangement(title, classes, parts), pictures


def _columns(features: dict[str, Any], source: str) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = ["label"] if "label" in labels else labels
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{source}: must have one column of images and one of class labels; "
            f"got {images or 'none'} and {labels or 'none'}."
        )
    return images[0], labels[0]
