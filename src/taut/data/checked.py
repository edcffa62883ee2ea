r"""Arrays as read from a file into a `Split`; what is wrong raises and names the file."""

from pathlib import Path

import numpy as np
import torch

from taut.data.sets import Split


def checked_split(images: np.ndarray, labels: np.ndarray, classes: int, source: object) -> Split:
    r"""Images (n, c, h, w) and labels (n,) as tensors, after checking what files get wrong.

    Args:
        images: uint8 pixels.
        labels: integers from 0.
        classes: how many classes there are.
        source: the file, for the message.

    Returns:
        The split, on the CPU, in memory of its own.

    Raises:
        ValueError: if there is no image, not one label an image, or a label out of range.

    Example:
        >>> len(checked_split(np.zeros((2, 1, 3, 3), np.uint8), np.array([0, 1]), 2, "here"))
        2
    """
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels.")
    if len(images) == 0 or 0 in images.shape:
        raise ValueError(f"{source}: no image, or images without a pixel: {images.shape}.")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"{source}: labels must be from 0 to {classes - 1}; got {wrong}.")
    pixels = np.array(images, dtype=np.uint8, order="C")
    return Split(torch.from_numpy(pixels), torch.from_numpy(np.array(labels, dtype=np.int64)))


def missing(what: str, where: Path, how: str) -> FileNotFoundError:
    r"""The error for a file that is not there: what, where it was looked for, how to get it.

    Example:
        >>> raise missing("data.bin", Path("here"), "Get it from example.org.")
        Traceback (most recent call last):
        FileNotFoundError: data.bin not found in here. Get it from example.org.
    """
    return FileNotFoundError(f"{what} not found in {where}. {how}")


def checked_shape(shape: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    r"""The shape that images are to be brought to, as it was given.

    Raises:
        ValueError: if it is not 1 or 3 channels, and a positive height and width.

    Example:
        >>> checked_shape((3, 64, 64))
        (3, 64, 64)
    """
    if shape is None or (len(shape) == 3 and shape[0] in (1, 3) and min(shape) > 0):
        return shape
    raise ValueError(f"`shape` must be 1 or 3 channels, a height and a width; got {shape}.")
