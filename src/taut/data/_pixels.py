r"""Pictures as arrays of pixels."""

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from taut.data._archive import Place, below

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, int, int]
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
_PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
_OTHERS = (".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm",
           ".pnm", ".ppm", ".tga", ".tif", ".tiff")  # fmt: skip


def is_picture(name: str) -> bool:
    """Whether a file of that name is a picture, of a format that is read or of another one."""
    # A leading dot marks what file managers leave behind, "._cat.jpg" for one.
    return not name.startswith(".") and name.lower().endswith(_PICTURES + _OTHERS)


def check_format(name: str, source: object) -> None:
    """Refuse pictures that would be skipped otherwise."""
    if name.lower().endswith(_OTHERS):
        raise ValueError(f"{source}: pictures must be JPEG, PNG or WebP; convert it or remove it.")


def images_below(folder: Path) -> list[Path]:
    r"""The JPEG, PNG and WebP files of a folder at any depth, in sorted order.

    Args:
        folder: the folder; what is hidden in it is left out.

    Raises:
        ValueError: if there is a picture of another format; names it.

    Example:
        >>> import tempfile
        >>> images_below(Path(tempfile.mkdtemp()))
        []
    """
    files = [file for file in below(folder) if is_picture(file.name) and not file.is_dir()]
    for file in files:
        check_format(file.name, file)
    return files


def read_images(files: Sequence[Path]) -> UInt8[Tensor, "n c h w"]:
    r"""The pixels of JPEG, PNG or WebP files of one size.

    Args:
        files: at least one.

    Returns:
        One channel if all are grey and three if not.

    Raises:
        ValueError: if a file is damaged, of another format or of another size; names it.
        ModuleNotFoundError: if Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("RGB", (2, 1), (1, 2, 3)).save(file)
        >>> read_images([file]).tolist()
        [[[[1, 1]], [[2, 2]], [[3, 3]]]]
    """
    pixels = [decode(Place(file).read(), file) for file in files]
    return torch.from_numpy(stack(pixels, [str(file) for file in files]))


def decode(data: bytes, source: object, shape: Shape | None = None) -> np.ndarray:
    """The pixels of a JPEG, PNG or WebP file, as `to_array` gives them."""
    return to_array(_opened(data, source), source, shape)


def read_picture(file: Path, shape: Shape) -> np.ndarray:
    """The uint8 pixels of a JPEG, PNG or WebP file that has the size asked for, (c, h, w)."""
    check_format(file.name, file)
    image, size = _opened(Place(file).read(), file), (shape[2], shape[1])
    if image.size != size:
        wide, got = ("{} x {}".format(*pair) for pair in (size, image.size))
        raise ValueError(f"{file}: must be {wide} pixels (width x height); got {got}.")
    return to_array(image, file, shape)


def _opened(data: bytes, source: object) -> "Image":
    with broken_pictures(source) as library:
        image = library.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        image.load()
    return image


@contextmanager
def broken_pictures(source: object) -> Iterator[Any]:
    """Pillow, whose errors become a sentence that names the picture."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        message = "Reading pictures needs Pillow: pip install 'taut[cli]'."
        raise ModuleNotFoundError(message) from None
    kind = f"{source}: not a whole JPEG, PNG or WebP image"
    try:
        yield Image
    except Image.DecompressionBombError as error:  # has the number of pixels and the limit
        raise ValueError(f"{source}: {error}") from None
    except Image.UnidentifiedImageError:  # which would name the bytes in memory
        raise ValueError(f"{kind}: it begins like none.") from None
    except (OSError, SyntaxError, EOFError, ValueError, MemoryError, struct.error) as error:
        raise ValueError(f"{kind}: {error}.") from error


def to_array(image: "Image", source: object, shape: Shape | None = None) -> np.ndarray:
    """The uint8 pixels of a picture, (c, h, w), brought to a shape if given."""
    if image.mode not in _GREY + _COLOUR:
        raise ValueError(
            f"{source}: must be grey or colour, 8 bits a channel; got mode {image.mode}."
        )
    grey = image.mode in _GREY if shape is None else shape[0] == 1
    if "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; Pillow warns where this step is left out
    image = image.convert("L" if grey else "RGB")
    if shape is not None and image.size != (shape[2], shape[1]):
        from PIL import ImageOps

        image = ImageOps.fit(image, (shape[2], shape[1]))
    return np.asarray(image)[None] if grey else np.asarray(image).transpose(2, 0, 1)


def stack(images: Sequence[np.ndarray], sources: Sequence[str]) -> np.ndarray:
    """Pictures of one size as (n, c, h, w); grey ones get three channels if any has colour."""
    size = images[0].shape[1:]
    for image, source in zip(images, sources, strict=True):
        if image.shape[1:] != size:
            raise ValueError(
                f"{source}: all images must have one size; got {image.shape[1:]}, "
                f"but {sources[0]} has {size}."
            )
    pixels = np.empty((len(images), max(map(len, images)), *size), dtype=np.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:] = image
    return pixels
