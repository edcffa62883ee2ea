"""Points named by a word: a data set, a folder of images, a file."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from taut.data import (
    generator,
    images_below,
    load,
    names,
    read_images,
    to_unit_range,
)
from taut.data._pixels import READABLE
from taut.kinds import did_you_mean
from taut.wasserstein._files import READERS, read_points
from taut.wasserstein._tables import same_columns


class Source(NamedTuple):
    """Points, whether they are pixels in [0, 1], and the names of their columns, if any."""

    points: Tensor
    pixels: bool
    columns: tuple[str, ...] | None = None

    def check_columns(self, other: "Source", names: tuple[str, str]) -> tuple[str, ...] | None:
        """The names of the columns of both, refused in one sentence if these differ.

        Args:
            other: the points to compare with.
            names: what the error calls the two.

        Raises:
            ValueError: if both have names of columns, and not the same in the same order.

        Example:
            >>> first, second = (Source(torch.zeros(1, 1), False, x) for x in (("a",), None))
            >>> first.check_columns(second, ("p", "q"))
            ('a',)
        """
        return same_columns(self.columns, other.columns, names)


def read_source(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    count: int = 2000,
    seed: int = 0,
) -> Source:
    """Points drawn at random, without replacement, from a file, folder or data set.

    Args:
        source: a folder with images at any depth; an npz file with one array (or its array `x`, its
            training images `x_train` or `train_images`, or `images`, `data` or `points`); an npy
            file; a csv or parquet file with one point a row, all its columns numbers, the first
            line of a csv file names or numbers; or a data set that `taut.data.load` knows (its
            training images).
        data_dir: for a data set: the folder with its files, or the one that holds a folder of its
            name.
        count: points at most.
        seed: of the choice.

    Returns:
        The points, pixels as float32 in [0, 1], whether they are pixels, and names of columns.

    Raises:
        ValueError: if the word names nothing, or what it names is damaged or holds nothing.

    Example:
        >>> read_source("fashion-mnist-subset", count=5).points.shape
        torch.Size([5, 1, 28, 28])
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1; got {count}.")
    path, columns = Path(source).expanduser(), None
    known = [name for name in names() if name not in ("npz", "folder")]
    if path.is_dir():
        return Source(_folder(path, count, seed), True)
    if path.suffix.lower() in READERS and path.exists():
        points, columns = read_points(path)
    elif str(source) in known or str(source).startswith("hub:"):
        points = load(str(source), _place(str(source), data_dir)).train.images
    elif path.exists():
        hint = did_you_mean(path.suffix, READERS)
        raise ValueError(f"{source} must end in {', '.join(READERS)}, or be a folder.{hint}")
    else:
        raise ValueError(
            f"{source} must be a folder of images, a file ({', '.join(READERS)}), or a data set "
            f"({', '.join(known)}); there is none of that name.{did_you_mean(str(source), known)}"
        )
    chosen = points[_choice(len(points), count, seed)]
    pixels = chosen.dtype == torch.uint8
    return Source(to_unit_range(chosen) if pixels else chosen, pixels, columns)


def _choice(total: int, count: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=generator("points", seed), device="cpu")[:count]


def _folder(path: Path, count: int, seed: int) -> Tensor:
    if (path / "wgan.json").is_file():  # its images are grids of samples
        raise ValueError(
            f"{path} must be a folder of images, not of a generator; write the generator's samples "
            f"into a file: python -m experiments.wgan.sample {path} --out samples.npz."
        )
    files = images_below(path)
    if not files:
        raise ValueError(f"{path} must hold pictures ({READABLE}); there is none.")
    chosen = [files[i] for i in _choice(len(files), count, seed).tolist()]
    return to_unit_range(read_images(chosen))


def _place(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of a data set's files, if any is given."""
    if data_dir is None:
        return None
    inside = Path(data_dir).expanduser() / name
    return inside if inside.is_dir() else inside.parent
