r"""Where the images of a folder lie, in files or in tar archives, without reading any."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from taut.data.archive import BROKEN, safe_parts
from taut.data.images import is_image

Parts = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Place:
    r"""The bytes of one image.

    Args:
        file: that holds them.
        start: where they begin.
        size: how many; None for all.
        name: of the image in an archive.
    """

    file: Path
    start: int = 0
    size: int | None = None
    name: str = ""

    def read(self) -> bytes:
        r"""The bytes.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp(), "a.bin")
            >>> _ = file.write_bytes(b"0123")
            >>> Place(file, 1, 2, "b").read()
            b'12'
        """
        if self.size is None:
            return self.file.read_bytes()
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.file}: {self.name}" if self.name else str(self.file)


class Listed(NamedTuple):
    r"""An image, or a folder (without a place), by the parts of its path."""

    parts: Parts
    place: Place | None


def listed(root: Path) -> Iterator[Listed]:
    r"""Images and folders below a folder, and in plain tar archives there, in sorted order.

    What is in an archive counts as if it lay in the archive's folder; images without a folder are
    of the class that the archive is named after.

    Args:
        root: the folder, or one archive.

    Raises:
        ValueError: if an archive is compressed, damaged, or holds what no archive of images does.

    Example:
        >>> import tempfile
        >>> list(listed(Path(tempfile.mkdtemp())))
        []
    """
    if root.is_file():
        yield from _in_archive(root, ())
        return
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_dir():
            yield Listed(parts, None)
        elif is_image(path.name):
            yield Listed(parts, Place(path))
        elif path.name.endswith(".tar") and not path.name.startswith("."):
            yield from _in_archive(path, parts[:-1])


def _in_archive(path: Path, above: Parts) -> Iterator[Listed]:
    size, end = path.stat().st_size, 0
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else it keeps all
                parts = safe_parts(entry, path)
                end = max(end, entry.offset_data + (entry.size if entry.isreg() else 0))
                if entry.isdir():
                    yield Listed((*above, *parts), None)
                elif is_image(parts[-1]):
                    inside = parts if len(parts) > 1 else (path.stem, *parts)
                    place = Place(path, entry.offset_data, entry.size, "/".join(parts))
                    yield Listed((*above, *inside), place)
    except BROKEN as error:
        raise ValueError(
            f"{path}: not a whole tar archive without compression, as is needed to read single "
            f"images from it: {error}."
        ) from error
    if end > size:
        raise ValueError(f"{path}: not a whole tar archive: it ends within an image.")
