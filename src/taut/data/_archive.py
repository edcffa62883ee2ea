r"""Files below a folder or in a tar archive; nothing is ever extracted to disk."""

import io
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from taut.data._checks import BROKEN, check_size, open_unpacked, read_at_most, size_of

Parts = tuple[str, ...]
_MOST = 1 << 26  # bytes read at once: more than any true header of an archive has


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one file are."""

    file: Path  # the file, or the archive that holds it
    name: str = ""  # of the file in the archive
    start: int = 0  # where it begins there
    size: int | None = None  # None for all of `file`
    data: bytes | None = None  # its bytes, if they are unpacked already

    def read(self) -> bytes:
        """Its bytes."""
        if self.data is not None:
            return self.data
        size = size_of(self.file) if self.size is None else self.size
        check_size(size, 0, self)
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(size)

    def __str__(self) -> str:
        return f"{self.file}: {self.name}" if self.name else str(self.file)


# A file, or a folder (without a place), by the parts of its path below the root.
Member = tuple[Parts, Place | None]


def members(root: Path, wanted: Callable[[str], bool], *, streamed: bool) -> Iterator[Member]:
    """All folders, and the `wanted` files, below a folder (sorted) or in a tar archive."""
    # If `streamed`, files in archives are given by their place, for which archives must be plain;
    # those inside a folder stand for a folder, or for a class if their files lie in none.
    if not root.is_dir():
        yield from _in_tar(root, (), wanted, streamed=streamed)
        return
    for path in below(root):
        parts = path.relative_to(root).parts
        if path.is_dir():
            yield parts, None
        elif wanted(path.name):
            yield parts, Place(path)
        elif streamed and path.suffix == ".tar":
            yield from _in_tar(path, parts[:-1], wanted, streamed=True)


def below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files and folders at any depth, but hidden ones and links that lead back up."""
    above = (*above, folder.resolve())
    for path in sorted(folder.glob("[!.]*")):
        if not path.is_dir():
            yield path
        elif path.resolve() not in above:
            yield path
            yield from below(path, above)


def _in_tar(
    archive: Path, above: Parts, wanted: Callable[[str], bool], *, streamed: bool
) -> Iterator[Member]:
    packed, unpacked = size_of(archive), 0
    try:
        opened = archive.open("rb") if streamed else open_unpacked(archive)
        with opened as stream, tarfile.open(fileobj=_Careful(stream), mode="r:") as tar:
            for entry in tar:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else it keeps all
                parts = _safe_parts(entry, archive)
                unpacked += entry.size
                check_size(unpacked, packed, f"{archive}: {entry.name}")
                if entry.isdir():
                    yield (*above, *parts), None
                elif wanted(parts[-1]) and streamed:
                    where = Place(archive, "/".join(parts), entry.offset_data, entry.size)
                    yield (*above, *(parts if len(parts) > 1 else (archive.stem, *parts))), where
                elif wanted(parts[-1]):
                    data = bytes(read_at_most(tar.extractfile(entry).read, entry.size))  # pyright: ignore[reportOptionalMemberAccess]
                    yield parts, Place(archive, "/".join(parts), data=data)
                if streamed and entry.isreg() and entry.offset_data + entry.size > packed:
                    raise EOFError("it ends within an image")
            # The checksum of a compressed archive comes last, behind the padding.
            while piece := stream.read(1 << 16):
                unpacked += len(piece)
                check_size(unpacked, packed, archive)
    except (*BROKEN, tarfile.TarError) as error:
        kind = " without compression, as is needed to read single images from it"
        kind = " (unpack a zip archive first)" if _is_zip(archive) else kind * streamed
        raise ValueError(f"{archive}: not a complete tar archive{kind}: {error}.") from error


def _is_zip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(4) == b"PK\3\4"


@final
class _Careful(io.BufferedIOBase):
    """A stream that refuses the huge reads that a header with a false size asks for."""

    def __init__(self, stream) -> None:
        self.seek, self.tell, self.stream = stream.seek, stream.tell, stream

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST:
            raise tarfile.ReadError(f"a header of {size:,} bytes; the limit is {_MOST:,}")
        return self.stream.read(size)


def _safe_parts(entry: tarfile.TarInfo, archive: Path) -> Parts:
    """The parts of the path of an entry, which must be a file or a folder in the archive."""
    parts = tuple(part for part in entry.name.split("/") if part not in ("", "."))
    if entry.name.startswith("/") or ".." in parts or "\\" in entry.name:
        raise ValueError(f"{archive}: refused, its entry {entry.name!r} leads out of the archive.")
    if not (entry.isdir() or (entry.isreg() and parts and not entry.issparse())):
        raise ValueError(f"{archive}: refused, its entry {entry.name!r} is not a file or a folder.")
    return parts


def files_called(archive: Path, names: Collection[str]) -> dict[str, Place]:
    """The files of an archive that have one of these names, wherever in it they lie."""
    files: dict[str, Place] = {}
    for parts, place in members(archive, lambda name: name in names, streamed=False):
        if place is not None and parts[-1] in files:
            raise ValueError(f"{archive}: two files are called {parts[-1]}.")
        files |= {} if place is None else {parts[-1]: place}
    return files
