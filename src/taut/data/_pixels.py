r"""Pictures as arrays of pixels."""

import io
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from taut.data._archive import Place, below
from taut.data._augment import Box, Size, Variation, as_pixels, resized
from taut.data._checks import check_size

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, int, int]
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
READABLE = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
_GREY = ("1", "L", "LA")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # grey, 16 bits
_BROKEN_EXIF = (SyntaxError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
                struct.error)  # fmt: skip
_ORIENTATION = 0x0112  # of EXIF
_TURNED = (5, 6, 7, 8)  # orientations by a quarter
_COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
_PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif",
             ".tiff", ".pbm", ".pgm", ".pnm", ".ppm")  # fmt: skip
_OTHERS = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga")


def is_picture(name: str) -> bool:
    """Whether a file of that name is a picture, of a format that is read or of another one."""
    # A leading dot marks what file managers leave behind, "._cat.jpg" for one.
    return not name.startswith(".") and name.lower().endswith(_PICTURES + _OTHERS)


def check_format(name: str, source: object) -> None:
    """Refuse pictures that would be skipped otherwise."""
    if name.lower().endswith(_OTHERS):
        raise ValueError(f"{source}: pictures must be {READABLE}; convert it or remove it.")


def images_below(folder: Path) -> list[Path]:
    r"""The picture files of a folder at any depth, in sorted order.

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
    r"""The pixels of picture files of one size.

    Args:
        files: at least one.

    Returns:
        One channel if all are grey and three if not.

    Raises:
        ValueError: if a file is damaged, of another format or of another size; names it. Also if
            all together would take more than 4 GiB, and more than 100 times their size on disk.
        ModuleNotFoundError: if Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("RGB", (2, 1), (1, 2, 3)).save(file)
        >>> read_images([file]).tolist()
        [[[[1, 1]], [[2, 2]], [[3, 3]]]]
    """
    tally, pixels = Tally("the pictures"), []
    for file in files:
        data = Place(file).read()
        pixels.append(tally.counted(decode(data, file), len(data)))
    return torch.from_numpy(stack(pixels, [str(file) for file in files]))


@final
@dataclass
class Tally:
    """Refuses pictures that together would take too much memory."""

    source: object
    packed: int = 0
    unpacked: int = 0

    def counted(self, pixels: np.ndarray, packed: int) -> np.ndarray:
        """The same pixels, which were so many bytes before they were decoded."""
        self.packed, self.unpacked = self.packed + packed, self.unpacked + pixels.nbytes
        check_size(self.unpacked, self.packed, self.source)
        return pixels


@final
@dataclass(frozen=True)
class Change:
    """How the picture of an index changes while it is brought to a shape."""

    variation: Variation
    index: int

    def box(self, size: Size, target: Size) -> Box | None:
        """The part that is cut out."""
        return self.variation.box(self.index, size, target)


def decode(
    data: bytes,
    source: object,
    shape: Shape | None = None,
    *,
    draft: bool = False,
    change: Change | None = None,
) -> np.ndarray:
    """The pixels of a picture file, as `to_array` gives them.

    Args:
        data: the file.
        source: its name.
        shape: to bring the picture to.
        draft: whether a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that covers the shape.
        change: how to vary it.
    """
    box: Box | None = None

    def before(image: "Image") -> None:
        nonlocal box
        if change is None and not draft:
            return
        # Chosen of the full size, whose proportions a draft changes a little: it rounds.
        size = _upright_size(image)
        target = size if shape is None else (shape[2], shape[1])
        box = None if change is None else change.box(size, target)
        if draft:
            _draft(image, size, target, box)

    image = _opened(data, source, before)
    return to_array(image, source, shape, change, box)


def _draft(image: "Image", size: Size, target: Size, box: Box | None) -> None:
    """Ask for the smallest size at which a part, or all, of a JPEG covers the target."""
    left, upper, right, lower = box or (0.0, 0.0, 1.0, 1.0)
    width, height = math.ceil(target[0] / (right - left)), math.ceil(target[1] / (lower - upper))
    image.draft(None, (width, height) if image.size == size else (height, width))  # pyright: ignore[reportArgumentType]


def read_picture(file: Path, shape: Shape, *, resize: bool = False) -> np.ndarray:
    """The uint8 pixels of a picture file, (c, h, w), which has that size or is brought to it."""
    check_format(file.name, file)
    image = _opened(Place(file).read(), file)
    size, found = (shape[2], shape[1]), _upright(image).size
    if found != size and not resize:
        wide, got = ("{} x {}".format(*pair) for pair in (size, found))
        raise ValueError(f"{file}: must be {wide} pixels (width x height); got {got}.")
    return to_array(image, file, shape)


def _opened(
    data: bytes, source: object, before: Callable[["Image"], None] = lambda image: None
) -> "Image":
    """A picture; `before` is called when its size is known, and its pixels are not."""
    with broken_pictures(source) as library, warnings.catch_warnings():
        # Large pictures are read up to the size at which Pillow raises.
        warnings.simplefilter("ignore", library.DecompressionBombWarning)
        image = library.open(io.BytesIO(data), formats=_FORMATS)
        # A JPEG may have a preview or a second view behind it: the first picture is the picture.
        frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
        before(image)
        image.load()
    if frames > 1:
        raise ValueError(f"{source}: must be one picture; it holds {frames}.")
    return image


@contextmanager
def broken_pictures(source: object) -> Iterator[Any]:
    """Pillow, whose errors become a sentence that names the picture."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        message = "Reading pictures needs Pillow: pip install 'taut[cli]'."
        raise ModuleNotFoundError(message) from None
    kind = f"{source}: not a whole picture ({READABLE})"
    try:
        yield Image
    except Image.DecompressionBombError as error:  # has the number of pixels and the limit
        raise ValueError(f"{source}: {error}") from None
    except Image.UnidentifiedImageError:  # which would name the bytes in memory
        raise ValueError(f"{kind}: its first bytes match none.") from None
    except (OSError, SyntaxError, EOFError, ValueError, MemoryError, struct.error) as error:
        raise ValueError(f"{kind}: {error}.") from error


def to_array(
    image: "Image",
    source: object,
    shape: Shape | None = None,
    change: Change | None = None,
    box: Box | None = None,
) -> np.ndarray:
    """The uint8 pixels of a picture, (c, h, w), upright, brought to a shape if given.

    A `change` cuts out a part, `box` if it has been chosen before, and draws colours.
    """
    deep = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode in _DEEP or deep:  # the upper 8 bits, as Pillow reads colours of 16 bits
        from PIL import Image

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in _GREY + _COLOUR:
        raise ValueError(
            f"{source}: must be grey or colour, 8 or 16 bits a channel; got mode {image.mode}."
        )
    image = _upright(image)
    grey = image.mode in _GREY if shape is None else shape[0] == 1
    if "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; Pillow warns where this step is left out
    image = image.convert("L" if grey else "RGB")
    target = image.size if shape is None else (shape[2], shape[1])
    if change is not None:
        box = box or change.box(image.size, target)
        image = change.variation.randaugmented(change.index, resized(image, target, box))
    return as_pixels(resized(image, target, None))


def _upright_size(image: "Image") -> Size:
    """The size that `_upright` gives."""
    with suppress(*_BROKEN_EXIF):
        if image.getexif().get(_ORIENTATION, 1) in _TURNED:
            return image.size[1], image.size[0]
    return image.size


def _upright(image: "Image") -> "Image":
    """The picture turned as its EXIF orientation says; broken EXIF says nothing."""
    with suppress(*_BROKEN_EXIF):
        if image.getexif().get(_ORIENTATION, 1) != 1:
            from PIL import ImageOps

            return ImageOps.exif_transpose(image)
    return image


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
