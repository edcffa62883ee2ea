r"""Decoded pictures as arrays of pixels."""

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = ("1", "L")
_COLOUR = ("RGB", "P", "CMYK", "YCbCr")
Shape = tuple[int, int, int]


def decode(data: bytes, source: object, shape: Shape | None = None) -> np.ndarray:
    r"""The pixels of a JPEG or PNG file, (c, h, w) with one channel if grey and three if not.

    Args:
        data: the file's bytes.
        source: its name, for the message.
        shape: to bring it to, as `to_array` does.

    Returns:
        uint8 pixels.

    Raises:
        ValueError: if the file is damaged, another format, 16 bits deep or transparent.

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2, 1), (1, 2, 3)).save(file, "PNG")
        >>> decode(file.getvalue(), "here").tolist()
        [[[1, 1]], [[2, 2]], [[3, 3]]]
    """
    from PIL import Image, UnidentifiedImageError

    broken = (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            image.load()
            return to_array(image, source, shape)
    except UnidentifiedImageError:  # which would name the bytes in memory
        raise ValueError(f"{source}: not a whole JPEG or PNG image: it begins like none.") from None
    except broken as error:
        raise ValueError(f"{source}: not a whole JPEG or PNG image: {error}.") from error


def to_array(image: "Image", source: object, shape: Shape | None = None) -> np.ndarray:
    r"""The pixels of a PIL image, (c, h, w) with one channel if grey and three if not.

    Args:
        image: the picture.
        source: its name, for the message.
        shape: to bring it to: scaled (bicubic) until it covers height and width, cropped around the
            middle, and of that many channels, 1 (grey) or 3.

    Returns:
        uint8 pixels.

    Raises:
        ValueError: if the picture is 16 bits deep or transparent.

    Example:
        >>> from PIL import Image
        >>> to_array(Image.new("L", (2, 1), 7), "here").tolist()
        [[[7, 7]]]
        >>> to_array(Image.new("L", (20, 10), 7), "here", (3, 1, 2)).tolist()
        [[[7, 7]], [[7, 7]], [[7, 7]]]
    """
    if image.mode not in _GREY + _COLOUR or "transparency" in image.info:
        raise ValueError(
            f"{source}: must be grey or colour, 8 bits a channel, without transparency; "
            f"got mode {image.mode}."
        )
    grey = image.mode in _GREY if shape is None else shape[0] == 1
    image = image.convert("L" if grey else "RGB")
    if shape is not None and image.size != (shape[2], shape[1]):
        from PIL import ImageOps

        image = ImageOps.fit(image, (shape[2], shape[1]))
    return np.asarray(image)[None] if grey else np.asarray(image).transpose(2, 0, 1)


def stack(images: list[np.ndarray], sources: list[str]) -> np.ndarray:
    r"""Images of one size as one array; grey ones get three channels if any has colour.

    Args:
        images: pixels, (c, h, w).
        sources: the name of each, for the message.

    Returns:
        uint8 pixels, (n, c, h, w).

    Raises:
        ValueError: if two sizes differ.

    Example:
        >>> grey, red = np.zeros((1, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8)
        >>> stack([grey, red], ["a.png", "b.png"]).shape
        (2, 3, 2, 2)
    """
    size = images[0].shape[1:]
    for image, source in zip(images, sources, strict=True):
        if image.shape[1:] != size:
            raise ValueError(
                f"{source}: all images must have one size; got {image.shape[1:]}, "
                f"but {sources[0]} has {size}."
            )
    channels = max(len(image) for image in images)
    pixels = np.empty((len(images), channels, *size), dtype=np.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:] = image
    return pixels
