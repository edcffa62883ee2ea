"""Files that would unpack to more than memory, and files without an end, are one sentence."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taut.data import _checks, load, load_test, read_arrays, read_images, stream
from taut.data._inert_pickle import read_inert_pickle


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path_factory.mktemp("cache")))


@contextmanager
def little_memory(most: int = 16 << 20) -> Iterator[None]:
    """The block allocates no more than this, by Python's own count."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def idx_header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "starts with 00000803; got 00000000"),
        (idx_header(1, 2, 2), r"promises 20 bytes for shape \(1, 2, 2\); got more"),
        (idx_header(1 << 22, 32, 32), r"promises would take 4\.0 GiB .* limit .* is 4\.0 GiB"),
        (idx_header(1 << 31, 1 << 30, 1 << 30), r"would take [\d,.]+ GiB of memory; the limit"),
        (idx_header(1 << 11, 32, 32), r"promises 2097168 bytes .*; got 1048592"),
    ],
)
@pytest.mark.parametrize("opener", [gzip, bz2, lzma])
def test_packed_idx_files_are_read_as_far_as_their_header_promises(
    opener, header, message, tmp_path
):
    packed = opener.compress(header + bytes(1 << 20))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed)
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(idx_header(1) + b"\0")
    with little_memory(), pytest.raises(ValueError, match=message) as caught:
        load("mnist", tmp_path)
    assert str(tmp_path / "train-images-idx3-ubyte.gz") in str(caught.value)


@pytest.mark.slow
def test_four_gigabytes_of_zeros_are_not_unpacked(tmp_path):
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        for start in range(256):
            file.write(bytes(1 << 24) if start else idx_header(1 << 22, 32, 32) + bytes(1 << 24))
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(idx_header(1) + b"\0")
    with little_memory(), pytest.raises(ValueError, match=r"would take 4\.0 GiB"):
        load("mnist", tmp_path)


def npy(shape: tuple[int, ...], content: bytes, dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def npz(path: Path, claimed: int | None = None, **files: bytes) -> Path:
    """A zip archive of these files; the directory claims another size for each, if given."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.npy", content)
        for entry in archive.filelist:
            entry.file_size = claimed or entry.file_size
    return path


PAIR = {"x_test": npy((1, 2, 2), bytes(4)), "y_test": npy((1,), bytes(1))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claimed": 8 << 30}, r"the arrays in it would take 16\.0 GiB of memory; the limit .* 4"),
        ({"x_test": npy((1 << 43,), bytes(4))}, r"x_test\.npy promises 8,796,093,022,\d+ bytes"),
        ({"x_test": npy((1 << 30, 8), bytes(4))}, r"x_test\.npy promises 8,589,934,\d+ bytes"),
        ({"x_test": npy((1 << 40,), b"", "|S0")}, r"not an npz file of plain arrays: x_test"),
        ({"x_test": npy((-1, 4), bytes(4))}, r"not an npz file of plain arrays"),
        ({"x_test": bytes(1 << 24)}, r"not an npz file of plain arrays"),
    ],
)
def test_arrays_are_read_only_if_they_are_what_they_claim(change, message, tmp_path):
    path = npz(tmp_path / "x.npz", **(PAIR | change))
    for read in (read_arrays, lambda file: load_test("npz", file)):
        with little_memory(48 << 20), pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_packs_as_images_do_is_read_however_large(tmp_path, monkeypatch):
    monkeypatch.setattr(_checks, "LIMIT", 1000)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 20), dtype=np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=pixels, labels=np.zeros(10, int))
    assert len(load_test("npz", tmp_path)[0]) == 10
    np.savez_compressed(tmp_path / "x.npz", images=pixels[:, :0] * 0, more=np.zeros(10**6))
    with pytest.raises(ValueError, match="would take"):
        read_arrays(tmp_path / "x.npz")


def tar_entry(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_entry("train/cat/0.png", 1 << 40), r"0\.png would take 1,024\.0 GiB .* is 4\.0 GiB"),
        (tar_entry("a/readme.md", 1 << 40), r"readme\.md would take 1,024\.0 GiB"),
        (tar_entry("x", 1 << 40, tarfile.XHDTYPE), "a header of 1,099,511,627,776 bytes; the lim"),
        (tar_entry("x", 1 << 27, tarfile.GNUTYPE_LONGNAME), "a header of 134,217,728 bytes"),
        (tar_entry("train/cat/0.png", 1 << 20), "not a complete tar archive"),
    ],
)
def test_tar_entries_that_claim_too_much_are_refused(pack, content, message, tmp_path):
    path = tmp_path / "set.tar"
    path.write_bytes(pack(content + bytes(1 << 18)))
    with little_memory(), pytest.raises(ValueError, match=message) as caught:
        load("folder", path)
    assert str(path) in str(caught.value)
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(
        pack(content.replace(b"0.png", b"train", 1) + bytes(1 << 18))
    )
    with little_memory(), pytest.raises((ValueError, FileNotFoundError)):
        load("cifar100", tmp_path)
    if pack is bytes:
        with little_memory(), pytest.raises(ValueError, match=r"would take|header|complete"):
            stream("folder", path, workers=0)


def test_sparse_tar_entries_are_refused(tmp_path):
    """Of them the archive holds less than their size: what follows would be taken for pixels."""
    entry = bytearray(tar_entry("train/cat/0.png", 0, tarfile.GNUTYPE_SPARSE))
    entry[386:410] = b"%011o\0%011o\0" % (0, 0)
    entry[483:495] = b"%011o\0" % 512
    entry[148:156] = b" " * 8
    entry[148:156] = b"%06o\0 " % sum(entry)
    (tmp_path / "set.tar").write_bytes(bytes(entry) + bytes(1 << 14))
    for read in (load, lambda *place: stream(*place, workers=0)):
        with pytest.raises(ValueError, match="is not a file or a folder"):
            read("folder", tmp_path / "set.tar")


def test_many_zeros_behind_an_archive_are_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(_checks, "LIMIT", 1 << 20)
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "PNG")
    entry = tar_entry("train/cat/0.png", file.tell()) + file.getvalue()
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(entry.ljust(2048, b"\0") + bytes(1 << 23)))
    with pytest.raises(ValueError, match="would take"):
        load("folder", tmp_path)


def pictures(folder: Path) -> Path:
    """A folder of classes with one picture each."""
    for part in ("train", "test"):
        for label in "ab":
            (folder / part / label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / part / label / "0.png")
    return folder


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    start = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    )
    return (
        start + b"".join(chunks) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(50_000, 50_000), r"0\.png: Image size \(2500000000 pixels\) exceeds limit of \d+"),
        (png(1 << 31, 1 << 31), "0.png: "),
        (png(8, 8, TEXT), r"0\.png: not a whole picture .*: .*[Tt]oo [Ll]arge"),
    ],
)
def test_picture_bombs_are_refused_from_their_header(content, message, tmp_path):
    folder = pictures(tmp_path)
    file = folder / "train" / "b" / "0.png"
    file.write_bytes(content)
    readers = (
        lambda: load("folder", folder),
        lambda: list(stream("folder", folder, workers=0).train.fetch(*everything(2))),
        lambda: read_images([file]),
    )
    for read in readers:
        with little_memory(), pytest.raises(ValueError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


def everything(count: int):
    import torch

    return torch.arange(count), [slice(None)]


@pytest.mark.parametrize("kind", ["device", "pipe", "endless link in an archive's place"])
def test_pictures_without_an_end_are_refused(kind, tmp_path):
    folder = pictures(tmp_path)
    file = folder / "train" / "b" / ("0.png" if "archive" not in kind else "x.tar")
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    message = rf"{file.name}: is a device or a pipe, not a file"
    with little_memory(), pytest.raises(ValueError, match=message):
        list(stream("folder", folder, workers=0).train.fetch(*everything(2)))
    if "archive" not in kind:
        with little_memory(), pytest.raises(ValueError, match=message):
            load("folder", folder)
        with little_memory(), pytest.raises(ValueError, match=message):
            read_images([file])


def test_sizes_that_only_the_disk_claims_are_refused(tmp_path):
    """Sparse files: a terabyte that takes no space."""
    folder = pictures(tmp_path)
    with (folder / "train" / "b" / "0.png").open("wb") as file:
        file.truncate(1 << 40)
    with little_memory(), pytest.raises(ValueError, match=r"0\.png would take 1,024\.0 GiB"):
        load("folder", folder)
    with (tmp_path / "train.bin").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "test.bin").write_bytes(bytes(3074))
    with little_memory(), pytest.raises(ValueError, match=r"train\.bin would take 1,024\.0 GiB"):
        load("cifar100", tmp_path)


def test_decoded_pictures_have_a_limit_together(tmp_path, monkeypatch):
    folder = pictures(tmp_path)
    for at in range(4):
        Image.new("RGB", (2000, 2000)).save(folder / "train" / "a" / f"{at}.png", optimize=True)
    monkeypatch.setattr(_checks, "LIMIT", 40 << 20)
    with pytest.raises(ValueError, match="its images would take"):
        load("folder", folder)
    files = sorted((folder / "train" / "a").iterdir())
    assert len(read_images(files[:3])) == 3
    with pytest.raises(ValueError, match="the pictures would take"):
        read_images(files)


def test_large_pictures_below_the_limit_are_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    Image.new("L", (8, 7)).save(tmp_path / "a.png")  # Pillow warns from here on
    assert read_images([tmp_path / "a.png"]).shape == (1, 1, 7, 8)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")  # and raises from twice its limit on
    with pytest.raises(ValueError, match=r"a\.png: Image size \(64 pixels\) exceeds limit of 60"):
        read_images([tmp_path / "a.png"])


def test_pickles_cannot_ask_for_a_table_of_any_size():
    memo = b"\x80\x02}r" + (1 << 31).to_bytes(4, "little") + b"."
    with little_memory(), pytest.raises(ValueError, match="it numbers an object 2,147,483,648"):
        read_inert_pickle(memo)
    assert read_inert_pickle(pickle.dumps({"labels": list(range(1000))}))["labels"][-1] == 999
