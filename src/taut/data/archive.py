r"""The files of a folder or a tar archive, read in memory: nothing is ever extracted to disk."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


class Member(NamedTuple):
    r"""One file or folder: the parts of its path below the root, and what a file holds."""

    parts: tuple[str, ...]
    data: bytes | None


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    r"""All folders, and the files whose name is `wanted`, of a folder or a tar archive.

    A folder is read three levels deep, in sorted order; an archive (plain, gz, bz2 or xz) to the
    end, in its own order.

    Args:
        path: the folder or the archive.
        wanted: tells from the name whether to read a file.

    Yields:
        Folders (with None) and files (with their bytes).

    Raises:
        ValueError: if the archive is damaged, or holds a link, a device or a path that leads out
            of it.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "a.txt").write_bytes(b"hello")
        >>> list(members(root, lambda name: name.endswith(".txt")))
        [Member(parts=('a.txt',), data=b'hello')]
    """
    return _in_folder(path, wanted) if path.is_dir() else _in_tar(path, wanted)


def _in_folder(root: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    for path in sorted(path for depth in ("*", "*/*", "*/*/*") for path in root.glob(depth)):
        parts = path.relative_to(root).parts
        if path.is_dir():
            yield Member(parts, None)
        elif wanted(path.name):
            yield Member(parts, path.read_bytes())


def _in_tar(archive: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                parts = safe_parts(entry, archive)
                if entry.isdir():
                    yield Member(parts, None)
                elif wanted(parts[-1]):
                    file = tar.extractfile(entry)
                    assert file is not None  # only for what is not a regular file
                    yield Member(parts, file.read())
            # The checksum of a compressed archive comes last, behind the padding.
            while tar.fileobj is not None and tar.fileobj.read(1 << 16):
                pass
    except BROKEN as error:
        raise ValueError(f"{archive}: not a whole tar archive: {error}.") from error


def files_called(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    r"""The files of an archive that have one of these names, wherever in it they lie.

    Args:
        archive: a tar archive.
        names: without folders.

    Returns:
        What they hold, by name, as far as they are there.

    Raises:
        ValueError: as `members`, and if two files have one name.

    Example:
        >>> import tempfile
        >>> archive = Path(tempfile.mkdtemp(), "a.tar")
        >>> with tarfile.open(archive, "w") as tar:
        ...     tar.add(__file__, "folder/a.py")
        >>> list(files_called(archive, ["a.py", "b.py"]))
        ['a.py']
    """
    files: dict[str, bytes] = {}
    for member in members(archive, lambda name: name in names):
        if member.data is not None:
            if member.parts[-1] in files:
                raise ValueError(f"{archive}: two files are called {member.parts[-1]}.")
            files[member.parts[-1]] = member.data
    return files


def safe_parts(entry: tarfile.TarInfo, archive: Path) -> tuple[str, ...]:
    r"""The parts of the path of an entry.

    Nothing is written to disk, but an entry that leads elsewhere shows that the archive is not what
    it says.

    Raises:
        ValueError: if it leads out of the archive, or is neither a file nor a folder.

    Example:
        >>> entry = tarfile.TarInfo("./cat/1.png")
        >>> safe_parts(entry, Path("a.tar"))
        ('cat', '1.png')
    """
    parts = tuple(part for part in entry.name.split("/") if part not in ("", "."))
    if entry.name.startswith("/") or ".." in parts or "\\" in entry.name:
        raise ValueError(f"{archive}: refused, its entry {entry.name!r} leads out of the archive.")
    if not (entry.isdir() or (entry.isreg() and parts)):
        raise ValueError(f"{archive}: refused, its entry {entry.name!r} is not a file or a folder.")
    return parts
