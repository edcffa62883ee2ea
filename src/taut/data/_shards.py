r"""Tar shards as WebDataset writes them: beside each picture a file of its name with the label."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import torch

from taut.data._archive import Place, below, members
from taut.data._checks import TEST_PARTS, TRAIN_PARTS, missing
from taut.data._folders import AbstractPictures, Arrangement, Picture
from taut.data._pixels import Change, Shape, check_format, decode, is_picture

SHARDS = "webdataset"
_HOW = "Expected train-000000.tar, ..., val-000000.tar, ..., or shards in train/ and val/."
_LABELS = (".cls", ".json")
_CLASSES = "classes.txt"
_MOST = 1 << 20  # bytes of a file with a label


class _Sample(NamedTuple):
    picture: Place
    label: int


@final
@dataclass(frozen=True)
class FilePictures(AbstractPictures):
    """Pictures in files, or in archives at a known place."""

    places: list[Place]
    shape: Shape | None
    draft: bool = False

    @property
    def packed(self) -> int:
        return sum(place.size or 0 for place in self.places)

    def __call__(self, at: int, change: Change | None = None) -> Picture:
        place = self.places[at]
        pixels = decode(place.read(), place, self.shape, draft=self.draft, change=change)
        return pixels, str(place)


def open_shards(
    source: Path, shape: Shape | None, *, draft: bool = False
) -> tuple[Arrangement, FilePictures]:
    """The pictures of all shards of a folder, or of one, in their order; none is decoded.

    A sample is `KEY.jpg`, or another picture, and `KEY.cls`, its class as a number from 0 in text,
    or `KEY.json` with a `label`. Names of the classes may stand in `classes.txt`, one a line.
    """
    shards = [source] if source.is_file() else [p for p in below(source) if p.suffix == ".tar"]
    if not shards:
        raise missing("A tar shard", source, _HOW)
    by_part: dict[str, list[_Sample]] = {}
    for shard in shards:
        by_part.setdefault(_part(shard, source), []).extend(_samples(shard))
    names, remark = _parts(list(by_part), source)
    places: list[Place] = []
    parts = {}
    for part, name in names.items():
        first, samples = len(places), by_part[part]
        places += [sample.picture for sample in samples]
        labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        parts[name] = torch.arange(first, len(places)), labels
    classes = _classes(source, 1 + max(int(labels.max()) for _, labels in parts.values()))
    arranged = Arrangement(source.resolve().name + remark, classes, parts)
    return arranged, FilePictures(places, shape, draft)


def _part(shard: Path, source: Path) -> str:
    """The word in the path of a shard that says what it is for; empty if none does."""
    path = shard.name if shard == source else str(shard.relative_to(source))
    words = re.findall(r"[a-z]+", path.lower().removesuffix(".tar"))
    return next((word for word in words if word in TRAIN_PARTS + TEST_PARTS), "")


def _parts(found: list[str], source: Path) -> tuple[dict[str, str], str]:
    """Which part trains and which tests, or that one is all; and a remark for the label."""
    trained_on = next((part for part in TRAIN_PARTS if part in found), None)
    tested_on = next((part for part in TEST_PARTS if part in found), None)
    if trained_on is not None and tested_on is not None and len(found) == 2:
        remark = "" if tested_on in ("test", "testing") else f" (tested on {tested_on})"
        return {trained_on: "train", tested_on: "test"}, remark
    if len(found) == 1 and tested_on is None:
        return {found[0]: "all"}, ""
    raise ValueError(
        f"{source}: shards must be of train and of one of {', '.join(TEST_PARTS)}; "
        f"got {', '.join(part or 'others' for part in found)}."
    )


def _samples(shard: Path) -> Iterator[_Sample]:
    """The pictures of a shard with their labels, in the order of the pictures."""
    pictures: dict[str, Place] = {}
    labels: dict[str, Place] = {}
    for _, place in members(shard, _is_wanted, streamed=True):
        if place is None:
            continue
        folder, _, file = place.name.rpartition("/")
        key, _, kind = file.partition(".")
        kept = labels if f".{kind}" in _LABELS else pictures
        key = f"{folder}/{key}"
        if kept is pictures:
            check_format(file, place)
            if key in pictures:
                raise ValueError(f"{place}: must be the only picture of its sample.")
        elif key in labels and kind == "json":
            continue  # the number alone is enough
        kept[key] = place
    if not pictures:
        raise ValueError(f"{shard}: must hold pictures, such as 000.jpg; got none.")
    for key, place in pictures.items():
        if key not in labels:
            raise ValueError(f"{place}: must have a file of its name ending in .cls or .json.")
        yield _Sample(place, _label(labels[key]))


def _is_wanted(name: str) -> bool:
    return is_picture(name) or (not name.startswith(".") and name.endswith(_LABELS))


def _label(place: Place) -> int:
    """The class that a file states."""
    if (place.size or 0) <= _MOST:
        try:
            value = json.loads(place.read())
            value = value["label"] if isinstance(value, dict) else value
            if type(value) is int and value >= 0:
                return value
        except (ValueError, KeyError, RecursionError):
            pass
    raise ValueError(f"{place}: must hold a class, a whole number from 0.")


def _classes(source: Path, count: int) -> tuple[str, ...]:
    """The names in classes.txt, or numbers."""
    file = source / _CLASSES
    if not file.is_file():
        return tuple(map(str, range(count)))
    names = tuple(filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())))
    if len(names) < count or len(set(names)) < len(names):
        raise ValueError(
            f"{file}: must hold at least {count} different names, one a line; got {len(names)}."
        )
    return names
