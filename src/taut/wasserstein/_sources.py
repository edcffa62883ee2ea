"""Points named by a word: a data set, a folder of images, an npz file."""

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
    read_arrays,
    read_images,
    to_unit_range,
)


class Source(NamedTuple):
    """Points, and whether their numbers lie in [0, 1] because of what they are: pixels."""

    points: Tensor
    pixels: bool


def read_source(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    count: int = 2000,
    seed: int = 0,
) -> Source:
    """Points drawn at random, without repetition, from what a word names.

    Args:
        source: a folder with images at any depth, an npz file with one array (or its array `x`, or
            its training images `x_train`), or a data set that `taut.data.load` knows (its training
            images).
        data_dir: for a data set: the folder with its files, or the one that holds a folder of its
            name.
        count: points at most.
        seed: of the choice.

    Returns:
        The points, pixels as float32 in [0, 1], and whether they are pixels.

    Raises:
        ValueError: if the word names nothing, or what it names is damaged or holds nothing.

    Example:
        >>> read_source("fashion-mnist-subset", count=5).points.shape
        torch.Size([5, 1, 28, 28])
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1; got {count}.")
    path = Path(source).expanduser()
    known = [name for name in names() if name not in ("npz", "folder")]
    if path.is_dir():
        return Source(_folder(path, count, seed), True)
    if path.suffix == ".npz" and path.is_file():
        points = _npz(path)
    elif str(source) in known:
        points = load(str(source), _place(str(source), data_dir)).train.images
    else:
        raise ValueError(
            f"{source} must be a folder of images, an npz file, or a data set "
            f"({', '.join(known)}); there is none of that name."
        )
    chosen = points[_choice(len(points), count, seed)]
    pixels = chosen.dtype == torch.uint8
    return Source(to_unit_range(chosen) if pixels else chosen, pixels)


def _choice(total: int, count: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=generator("points", seed))[:count]


def _folder(path: Path, count: int, seed: int) -> Tensor:
    if (path / "wgan.json").is_file():  # its images are grids of samples
        raise ValueError(
            f"{path} must be a folder of images, not of a generator; write the generator's samples "
            f"into a file: python -m experiments.wgan.sample {path} --out samples.npz."
        )
    files = images_below(path)
    if not files:
        raise ValueError(f"{path} must hold images (JPEG, PNG or WebP); there is none.")
    chosen = [files[i] for i in _choice(len(files), count, seed).tolist()]
    return to_unit_range(read_images(chosen))


def _npz(path: Path) -> Tensor:
    """The points of a file: the only array, or the one that is called x or x_train."""
    arrays = read_arrays(path)
    chosen = [arrays[name] for name in ("x", "x_train") if name in arrays]
    if len(arrays) == 1:
        chosen = list(arrays.values())
    if not chosen or chosen[0].dtype.kind not in "fu" or not chosen[0].ndim:
        listing = ", ".join(f"{n} ({a.dtype} of shape {a.shape})" for n, a in arrays.items())
        raise ValueError(
            f"{path} must hold points in one array, or in x or x_train, of floats or of uint8; "
            f"it holds {listing or 'none'}."
        )
    points = torch.from_numpy(chosen[0])
    pixels = points.dtype == torch.uint8
    # Numbers on a line, or images as they are stored elsewhere: grey without channels, ...
    if points.ndim == 1 or (pixels and points.ndim == 3):
        return points[:, None]
    # ... or channels last.
    last = pixels and points.ndim == 4 and points.shape[3] in (1, 3)
    return points.permute(0, 3, 1, 2) if last and points.shape[1] not in (1, 3) else points


def _place(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of a data set's files, if any is given."""
    if data_dir is None:
        return None
    inside = Path(data_dir).expanduser() / name
    return inside if inside.is_dir() else inside.parent
