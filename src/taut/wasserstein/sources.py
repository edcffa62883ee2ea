"""Points named by a word: a data set, a folder of images, an npz file, a folder of a generator."""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from taut.data import load, names
from taut.data.pixels import decode, stack
from taut.data.seeding import generator
from taut.data.sets import to_unit_range
from taut.wasserstein.wgan import CONFIG, WGANRun


class Source(NamedTuple):
    """Points, and whether their numbers lie in [0, 1] because of what they are: pixels."""

    points: Tensor
    pixels: bool


_ENDINGS = (".png", ".jpg", ".jpeg")


def read_source(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    count: int = 2000,
    seed: int = 0,
) -> Source:
    """Points drawn at random, without repetition, from what a word names.

    Args:
        source: the folder of a generator, a folder with images at any depth, an npz file with one
            array (or its array `x`, or its training images `x_train`), or a data set that
            `taut.data.load` knows (its training images).
        data_dir: for a data set: the folder with its files, or the one that holds a folder of its
            name.
        count: points at most; a generator makes so many.
        seed: of the choice, and of a generator's noise.

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
    if (path / CONFIG).is_file():
        return Source(WGANRun.open(path).sample(count, seed=seed), True)
    if path.is_dir():
        return Source(_folder(path, count, seed), True)
    if path.suffix == ".npz" and path.is_file():
        points = _npz(path)
    elif str(source) in names() and str(source) not in ("npz", "folder"):
        points = load(str(source), _place(str(source), data_dir)).train.images
    else:
        known = ", ".join(name for name in names() if name not in ("npz", "folder"))
        raise ValueError(
            f"{source} must be a folder of images or of a generator, an npz file, or a data set "
            f"({known}); there is none of that name."
        )
    chosen = points[_choice(len(points), count, seed)]
    pixels = chosen.dtype == torch.uint8
    return Source(to_unit_range(chosen) if pixels else chosen, pixels)


def _choice(total: int, count: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=generator("points", seed))[:count]


def _folder(path: Path, count: int, seed: int) -> Tensor:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS)
    if not files:
        raise ValueError(f"{path} must hold images ({', '.join(_ENDINGS)}); there is none.")
    chosen = [files[i] for i in _choice(len(files), count, seed).tolist()]
    pixels = [decode(file.read_bytes(), file) for file in chosen]
    return to_unit_range(torch.from_numpy(stack(pixels, [str(file) for file in chosen])))


def _npz(path: Path) -> Tensor:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            arrays = dict(content)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        # Of another file numpy says how to load it unsafely.
        reason = str(error).rstrip(".") if zipfile.is_zipfile(path) else "it is no zip archive"
        raise ValueError(f"{path} is not an npz file of plain arrays: {reason}.") from None
    chosen = [arrays[name] for name in ("x", "x_train") if name in arrays]
    chosen = chosen or list(arrays.values()) if len(arrays) == 1 or chosen else []
    if not chosen or chosen[0].dtype.kind not in "fu" or not chosen[0].ndim:
        held = ", ".join(f"{n} ({a.dtype} of shape {a.shape})" for n, a in arrays.items())
        raise ValueError(
            f"{path} must hold points in one array, or in x or x_train, of floats or of uint8; "
            f"it holds {held or 'none'}."
        )
    points = torch.from_numpy(chosen[0])
    # Images as they are stored elsewhere: grey without channels, or channels last.
    if points.dtype == torch.uint8 and points.ndim == 3:
        return points[:, None]
    last = points.dtype == torch.uint8 and points.ndim == 4 and points.shape[3] in (1, 3)
    return points.permute(0, 3, 1, 2) if last and points.shape[1] not in (1, 3) else points


def _place(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    if data_dir is None:
        return None
    inside = Path(data_dir).expanduser() / name
    return inside if inside.is_dir() else Path(data_dir).expanduser()
