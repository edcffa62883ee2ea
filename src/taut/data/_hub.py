r"""Image classification data sets of the Hugging Face hub, through the library `datasets`."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from taut.data._checks import TEST_PARTS, check_labels
from taut.data._folders import Arrangement, Picture, Tell, arrays_of, dataset_of
from taut.data._holdout import Holdout
from taut.data._pixels import Shape, Tally, broken_pictures, to_array
from taut.data._sets import Dataset

PREFIX = "hub:"


@final
@dataclass(frozen=True)
class HubPictures:
    """Pictures by number: those to train on, then those to test on."""

    tables: tuple[Any, ...]
    column: str
    source: str
    shape: Shape | None

    @property
    def packed(self) -> int:
        """Bytes on disk, as far as the library tells."""
        return sum(getattr(table, "dataset_size", None) or 0 for table in self.tables)

    def __call__(self, at: int) -> Picture:
        first = len(self.tables[0])
        part, table, number = ("train", 0, at) if at < first else ("test", 1, at - first)
        name = f"{self.source}: {part}: image {number}"
        with broken_pictures(name):
            picture = self.tables[table][number][self.column]
        return to_array(picture, name, self.shape), name


def open_hub(
    name: str, cache_dir: Path | None, shape: Shape | None
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
    pictures = HubPictures(tuple(tables.values()), image, source, shape)
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


def load_hub(
    name: str, cache_dir: Path | None, holdout: Holdout | None, shape: Shape | None, tell: Tell
) -> Dataset:
    """All images of a data set of the hub, decoded."""
    arranged, picture = open_hub(name, cache_dir, shape)
    pictures: list[Picture] = []
    tally = Tally(f"{PREFIX}{name}: its images", packed=picture.packed)
    for at in range(sum(len(labels) for _, labels in arranged.parts.values())):
        pixels, title = picture(at)
        pictures.append((tally.counted(pixels, 0), title))
        if tell is not None:
            tell(len(pictures))
    source = f"{PREFIX}{name}"
    return dataset_of(source, arrays_of(arranged, pictures), holdout, source)
