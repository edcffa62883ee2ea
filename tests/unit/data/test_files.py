"""Readers of idx and CIFAR files, on small files written here, whole and broken."""

import copyreg
import hashlib
import io
import os
import pickle
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import (
    CIFAR_FORMS,
    IDX_STYLES,
    as_python2_pickle,
    cifar_files,
    random_arrays,
    write_idx,
    write_mnist,
)
from taut.data import load
from taut.data._inert_pickle import read_inert_pickle
from taut.data._named import NAMED


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def assert_holds(split, truth) -> None:
    images, labels = truth
    assert split.images.dtype == torch.uint8
    np.testing.assert_array_equal(split.images.numpy().squeeze(), images.squeeze())
    np.testing.assert_array_equal(split.labels.numpy(), labels)


@pytest.mark.parametrize("style", IDX_STYLES)
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_read_back(name, style, tmp_path):
    written = write_mnist(tmp_path, style)
    data = load(name, tmp_path)
    assert data.input_shape == (1, 5, 4)
    assert_holds(data.train, written["train"])
    assert_holds(data.test, written["t10k"])


@pytest.mark.parametrize("given", ["mnist", "fashion-mnist"])
def test_files_of_another_set_are_refused_and_unknown_ones_told_by_the_label(
    given, tmp_path, monkeypatch
):
    write_mnist(tmp_path)
    other = "mnist" if given == "fashion-mnist" else "fashion-mnist"
    assert load(given, tmp_path).label == f"{NAMED[given].label} (not the published files)"
    for file in NAMED[other].hashes:
        digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        monkeypatch.setitem(NAMED[other].hashes, file, digest)
    assert load(other, tmp_path).label == NAMED[other].label
    message = rf"is a file of {NAMED[other].label}, not of .*; load it as {other}\."
    with pytest.raises(ValueError, match=message):
        load(given, tmp_path)


def test_missing_idx_file_is_named_with_its_place_and_source(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte.*not found in.*https://"):
        load("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda data: b"", "an empty file"),
        (lambda data: b"\x00\x00\x0d\x03" + data[4:], "starts with 00000803; got 00000d03"),
        (lambda data: data[:3], "starts with"),
        (lambda data: data[:10], "promises"),
        (lambda data: data[:-1], "promises"),
        (lambda data: data + b"\x00", "promises"),
        (lambda data: data[:4] + b"\xff" * 12, "promises"),
    ],
)
def test_broken_idx_names_the_file_and_the_fault(break_it, message, tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(break_it(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        load("mnist", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [0, 5, 15, -9, -1])
def test_truncated_gzip_names_the_file(cut, tmp_path):
    write_mnist(tmp_path, IDX_STYLES[1])
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz"):
        load("mnist", tmp_path)


@given(junk=st.binary(max_size=60))
@settings(deadline=None, max_examples=60)
def test_any_bytes_for_an_idx_file_raise_one_clear_error(junk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("junk")
    write_mnist(folder, IDX_STYLES[1])
    (folder / "train-images-idx3-ubyte").write_bytes(junk)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        load("mnist", folder)


def test_idx_labels_out_of_range_or_too_few_raise(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    write_idx(path, np.full(12, 10))
    with pytest.raises(ValueError, match=r"train-labels.*from 0 to 9; got 10"):
        load("mnist", tmp_path)
    write_idx(path, np.zeros(11))
    with pytest.raises(ValueError, match="12 images but 11 labels"):
        load("mnist", tmp_path)
    write_idx(path, np.zeros(0))
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((0, 5, 4)))
    with pytest.raises(ValueError, match="no image"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("place", ["folder", "parent", "archive in folder", "archive"])
@pytest.mark.parametrize("form", CIFAR_FORMS)
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_reads_back_from_folder_and_archive(name, form, place, tmp_path):
    folder, archive, files, truth = cifar_files(name, form)
    if "archive" in place:
        write_tar(tmp_path / archive, {f"{folder}/{n}": data for n, data in files.items()})
        where = tmp_path / archive if place == "archive" else tmp_path
    else:
        (tmp_path / folder).mkdir()
        for file_name, data in files.items():
            (tmp_path / folder / file_name).write_bytes(data)
        where = tmp_path / folder if place == "folder" else tmp_path
    data = load(name, where)
    assert data.input_shape == (3, 32, 32)
    assert len(data.classes) == (10 if name == "cifar10" else 100)
    assert_holds(data.train, truth["train"])
    assert_holds(data.test, truth["test"])


@pytest.mark.parametrize("protocol", range(5))
def test_pickles_of_this_numpy_and_python_read_back(protocol):
    rows = random_arrays(2, (3072,), 10)[0]
    content = {"data": rows, "labels": [1, 2], "names": ["a", "b"]}
    read = read_inert_pickle(pickle.dumps(content, protocol=protocol))
    np.testing.assert_array_equal(read["data"], rows)
    assert read["labels"] == [1, 2]


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        Malicious(os.system, "touch {path}"),
        Malicious(subprocess.Popen, "touch {path}"),
        Malicious(eval, "open('{path}', 'w')"),
        Malicious(exec, "open('{path}', 'w')"),
        Malicious(getattr, "", "format"),
        Malicious(np.load, "{path}"),
        Malicious(copyreg._reconstructor, dict, object, None),
        {"data": Malicious(os.system, "touch {path}")},
        np.array([{}], dtype=object),
        {"data": np.array([1.0])},
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_name_anything_but_byte_arrays_are_refused(content, protocol, tmp_path):
    mark = tmp_path / "mark"
    if isinstance(content, Malicious):
        function, arguments = content.call
        content = Malicious(
            function,
            *(a.replace("{path}", str(mark)) if isinstance(a, str) else a for a in arguments),
        )
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"data_batch_1.*not a pickle of plain data"):
        load("cifar10", tmp_path)
    assert not mark.exists()


@given(junk=st.binary(max_size=80))
@settings(deadline=None)
def test_any_bytes_for_a_pickle_raise_one_clear_error(junk):
    try:
        read = read_inert_pickle(junk)
    except ValueError as error:
        assert str(error).startswith(("not a pickle of plain data: ", "the pickle must hold"))  # noqa: PT017 (a dict by luck is fine too)
    else:
        assert isinstance(read, dict)


@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=200)
def test_any_damaged_byte_of_a_pickle_gives_data_or_a_clear_error(at, byte):
    content = {b"data": np.zeros((2, 8), np.uint8), b"labels": [1, 2]}
    data = bytearray(as_python2_pickle(content))
    data[at % len(data)] = byte
    try:
        read_inert_pickle(bytes(data))
    except ValueError as error:
        assert str(error).startswith(("not a pickle of plain data: ", "the pickle must hold"))  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"labels": [0]}, "`data` must be uint8"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, "`data` must be uint8"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "`labels` must be a list"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]}, "1 images but 2 labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "from 0 to 9; got 10"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}, "out of range: -1"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "no image"),
    ],
)
def test_cifar_python_batches_with_wrong_content_name_the_file(content, message, tmp_path):
    files = cifar_files("cifar10", "python")[2] | {"data_batch_3": as_python2_pickle(content)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"data_batch_3: .*{message}"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\x0a" + bytes(3072), bytes(3072), bytes(3074)])
def test_cifar_binary_batches_cut_short_or_mislabelled_name_the_file(damage, tmp_path):
    files = cifar_files("cifar10", "binary")[2] | {"data_batch_2.bin": damage}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"data_batch_2.bin: .*(3073 bytes|got 10)"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("form", CIFAR_FORMS)
def test_missing_cifar_batch_is_named(form, tmp_path):
    folder, archive, files, _ = cifar_files("cifar10", form)
    gone = next(name for name in files if name.startswith("data_batch_4"))
    del files[gone]
    write_tar(tmp_path / archive, {f"{folder}/{name}": data for name, data in files.items()})
    with pytest.raises(FileNotFoundError, match=rf"{gone} not found in .*{archive}.*https://"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("cut", [0, 100, 2000, -30])
def test_truncated_cifar_archive_is_refused_by_name(cut, tmp_path):
    folder, archive, files, _ = cifar_files("cifar10", "binary")
    write_tar(tmp_path / archive, {f"{folder}/{name}": data for name, data in files.items()})
    whole = (tmp_path / archive).read_bytes()
    (tmp_path / archive).write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=archive):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar100", "stl10"])
def test_two_files_of_one_name_in_an_archive_are_refused(name, tmp_path):
    _, archive, files, _ = cifar_files("cifar100", "binary")
    if name == "stl10":
        archive, (files, _) = "stl10_binary.tar.gz", stl10_files()
    both = {f"{where}/{file}": data for file, data in files.items() for where in ("one", "other")}
    write_tar(tmp_path / archive, both)
    with pytest.raises(ValueError, match="two files are called"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", ["../train.bin", "/etc/train.bin", "a/../../train.bin", "..\\x"])
def test_archive_paths_that_lead_out_are_refused(name, tmp_path):
    write_tar(tmp_path / "cifar-100-binary.tar.gz", {name: b"x"})
    with pytest.raises(ValueError, match=r"cifar-100-binary.*refused.*leads out"):
        load("cifar100", tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archive_links_and_devices_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("train.bin")
        entry.type, entry.linkname = kind, "/etc/hostname"
        tar.addfile(entry)
    with pytest.raises(ValueError, match=r"refused.*not a file or a folder"):
        load("cifar100", tmp_path)


def stl10_files(train=3, test=2):
    """Bytes by file name, and images and labels by split, as the original stores them."""
    files, truth = {}, {}
    for part, n in (("train", train), ("test", test)):
        images, labels = random_arrays(n, (3, 96, 96), 10, seed=n)
        stored = bytearray()
        for image in images:
            for channel in image:
                for column in range(96):
                    stored += channel[:, column].tobytes()
        files[f"{part}_X.bin"] = bytes(stored)
        files[f"{part}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
        truth[part] = images, labels
    return files, truth


@pytest.mark.parametrize("place", ["folder", "parent", "archive in folder", "archive"])
def test_stl10_reads_back_column_by_column_and_counts_from_0(place, tmp_path):
    files, truth = stl10_files()
    if "archive" in place:
        archive = tmp_path / "stl10_binary.tar.gz"
        write_tar(archive, {f"stl10_binary/{n}": d for n, d in files.items()})
        where = archive if place == "archive" else tmp_path
    else:
        folder = tmp_path / "stl10_binary"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        where = folder if place == "folder" else tmp_path
    data = load("stl10", where)
    assert (data.input_shape, len(data.classes)) == ((3, 96, 96), 10)
    assert_holds(data.train, truth["train"])
    assert_holds(data.test, truth["test"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_X.bin", b"\x00" * 27649, "train_X.bin: must be whole images of 27648 bytes"),
        ("train_X.bin", b"", "train_X.bin: must be whole images of 27648 bytes; got 0"),
        ("test_y.bin", b"\x01", "test_y.bin: 2 images but 1 labels"),
        ("test_y.bin", b"\x01\x00", "labels must be from 0 to 9; got -1"),
        ("test_y.bin", b"\x01\x0b", "labels must be from 0 to 9; got 10"),
        ("test_y.bin", None, "test_y.bin not found in .* Download stl10_binary.tar.gz from https"),
    ],
)
def test_broken_stl10_names_the_fault(name, content, message, tmp_path):
    files = {n: d for n, d in (stl10_files()[0] | {name: content}).items() if d is not None}
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load("stl10", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"stl10_binary.tar.gz not found in"):
        load("stl10", tmp_path / "nowhere")
