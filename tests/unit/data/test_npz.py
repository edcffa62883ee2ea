"""Data sets from one npz file, whole and broken."""

import numpy as np
import pytest
import torch

from taut.data import load, load_test


def random_arrays(n: int, shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)
    return images, np.arange(n) % classes


def npz_arrays(layout: str = "nhw") -> dict[str, np.ndarray]:
    arrays = {}
    for part, n in (("train", 6), ("test", 4)):
        images, labels = random_arrays(n, (3, 5, 4), 3)
        images = {"nhw": images[:, 0], "nchw": images, "nhwc": images.transpose(0, 2, 3, 1)}[layout]
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    return arrays


@pytest.mark.parametrize("layout", ["nhw", "nchw", "nhwc"])
@pytest.mark.parametrize("column", [False, True])
def test_npz_reads_back_in_every_layout(layout, column, tmp_path):
    arrays = npz_arrays(layout)
    stored = dict(arrays)
    if column:
        stored |= {name: arrays[name][:, None] for name in ("y_train", "y_test")}
    np.savez(tmp_path / "pets.npz", **stored, classes=["cat", "dog", "eel"])
    data = load("npz", tmp_path)
    same = load("npz", tmp_path / "pets.npz")
    assert data.classes == ("cat", "dog", "eel")
    assert data.label == "pets"
    assert torch.equal(data.train.images, same.train.images)
    for split, part, n in ((data.train, "train", 6), (data.test, "test", 4)):
        expected = random_arrays(n, (3, 5, 4), 3)[0][:, : 1 if layout == "nhw" else 3]
        np.testing.assert_array_equal(split.images.numpy(), expected)
        np.testing.assert_array_equal(split.labels.numpy(), arrays[f"y_{part}"])
    np.savez(tmp_path / "pets.npz", **stored)
    assert load("npz", tmp_path).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "x_train not found"),
        ({"x_train": np.zeros((6, 5, 4))}, "x_train must be uint8"),
        ({"x_train": np.zeros((6, 5), np.uint8)}, "must have shape"),
        ({"x_train": np.zeros((6, 3, 5, 3), np.uint8)}, "must have shape"),
        ({"x_train": np.zeros((6, 5, 4, 2), np.uint8)}, "must have shape"),
        ({"x_train": np.zeros((5, 5, 4), np.uint8)}, "5 images but 6 labels"),
        ({"x_test": np.zeros((4, 5, 5), np.uint8)}, "one shape"),
        ({"y_train": np.full(6, 0.5)}, "y_train must be class indices, whole .*; got 0.5"),
        ({"y_train": np.full(6, np.inf)}, "y_train must be class indices, whole .*; got inf"),
        ({"y_train": np.array(["cat"] * 6)}, "y_train must be class indices, .*; got <U3"),
        ({"X_train": np.zeros((6, 5, 4), np.uint8)}, "images and labels once; got x_train, X_tr"),
        ({"y_train": np.array([0, 1, 1, 1, 3, 3])}, "class 2 has no training image"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "got -1"),
        ({"y_test": np.array([0, 1, 2, 3])}, "got 3"),
        ({"y_train": np.array([{}] * 6, dtype=object)}, "not an npz file of plain arrays"),
        ({"x_train": np.zeros((0, 5, 4), np.uint8), "y_train": np.zeros(0, int)}, "no image"),
    ],
)
def test_npz_with_wrong_arrays_names_the_fault(changes, message, tmp_path):
    arrays = {k: v for k, v in (npz_arrays() | changes).items() if v is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load("npz", tmp_path)


@pytest.mark.parametrize("junk", [b"", b"PK", b"hello", b"\x80\x04}.", b"\x93NUMPY"])
def test_files_that_are_no_npz_are_refused_by_name(junk, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(junk)
    with pytest.raises(ValueError, match=r"x\.npz: not an npz file"):
        load("npz", path)


def test_one_plain_array_or_two_npz_files_are_refused(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"x\.npz: not an npz file"):
        load("npz", tmp_path)
    np.savez(tmp_path / "y.npz", **npz_arrays())
    with pytest.raises(ValueError, match="must hold one npz file"):
        load("npz", tmp_path)


@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "u4", "u8", "i1", ">i2", ">u4", "i8", "f2", "f4", ">f8"]
)
@pytest.mark.parametrize("column", [False, True])
def test_labels_are_whole_numbers_of_any_type(column, dtype, tmp_path):
    arrays = npz_arrays()
    labels = {name: arrays[name].astype(dtype) for name in ("y_train", "y_test")}
    shaped = {name: of[:, None] if column else of for name, of in labels.items()}
    np.savez(tmp_path / "x.npz", **arrays | shaped)
    data = load("npz", tmp_path)
    assert data.classes == ("0", "1", "2")
    np.testing.assert_array_equal(data.train.labels.numpy(), arrays["y_train"])
    np.testing.assert_array_equal(load_test("npz", tmp_path)[1].numpy(), arrays["y_test"])


def test_bools_are_two_classes(tmp_path):
    arrays = npz_arrays()
    labels = {name: arrays[name] > 1 for name in ("y_train", "y_test")}
    np.savez(tmp_path / "x.npz", **arrays | labels)
    assert load("npz", tmp_path).train.labels.tolist() == [0, 0, 1, 0, 0, 1]
    assert load_test("npz", tmp_path)[1].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("wrong", [10**10, 2**63 - 1, 2**63, 2**64 - 1, 6])
def test_labels_of_no_class_are_one_sentence(wrong, tmp_path):
    labels = np.array([0, 1, 2, 0, 1, wrong], dtype=np.uint64)
    np.savez(tmp_path / "x.npz", **npz_arrays() | {"y_train": labels})
    with pytest.raises(ValueError, match=rf"y_train: labels must number .* got {wrong} among 6"):
        load("npz", tmp_path)
    np.savez(tmp_path / "x.npz", **npz_arrays() | {"y_test": labels[2:]})
    with pytest.raises(ValueError, match=rf"labels must be from 0 to 2; got {wrong}"):
        load("npz", tmp_path)
    if wrong >= 2**63:
        with pytest.raises(ValueError, match=rf"labels must be from 0 .* got {wrong}"):
            load_test("npz", tmp_path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_test", "y_test"),
        ("X_test", "y_test"),
        ("test_images", "test_labels"),
        ("images", "labels"),
        ("x", "y"),
        ("X", "Y"),
        ("data", "target"),
        ("data", "targets"),
        ("image", "label"),
        ("arr_0", "arr_1"),
        ("Test_X", "Test_Y"),
        ("x_val", "y_val"),
    ],
)
@pytest.mark.parametrize("kind", ["u1", "f4", "f8", "f2"])
def test_test_images_alone_are_enough_to_certify(images, labels, kind, tmp_path):
    pixels, classes = random_arrays(5, (3, 4, 4), 3)
    stored = pixels if kind == "u1" else (pixels / 300).astype(kind)
    np.savez(tmp_path / "x.npz", **{images: stored, labels: classes.astype(np.uint8)})
    found, targets = load_test("npz", tmp_path)
    assert found.dtype == torch.float32
    expected = torch.from_numpy(stored).float() / (255 if kind == "u1" else 1)
    assert torch.equal(found, expected)
    assert targets.tolist() == classes.tolist()
    with pytest.raises(ValueError, match="must hold x_train, y_train, x_test, y_test"):
        load("npz", tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_test": np.full((2, 3, 3), 1.5)}, r"x_test must lie in \[0, 1\]; got 1.5 to 1.5"),
        ({"x_test": np.full((2, 3, 3), -0.1)}, r"must lie in \[0, 1\]; got -0.1"),
        ({"x_test": np.full((2, 3, 3), np.nan)}, r"must lie in \[0, 1\]; got nan"),
        ({"x_test": np.zeros((2, 3, 3), int)}, "must be uint8, 0 to 255; got int64"),
        ({"x_test": np.zeros((2, 9))}, "must have shape"),
        ({"x_test": np.zeros((3, 3, 3))}, "3 images but 2 labels"),
        ({"x_test": np.zeros((0, 3, 3)), "y_test": np.zeros(0, int)}, "has no image"),
        ({"y_test": np.zeros((2, 10))}, r"whole numbers of shape .* one-hot rows store labels.arg"),
        ({"y_test": np.zeros((2, 1, 1), int)}, "whole numbers of shape"),
        ({"y_test": np.array([0, -1])}, "got -1"),
        ({"y_test": None}, "must hold test images and their labels, .*; got x_test"),
    ],
)
def test_wrong_test_images_name_the_fault(arrays, message, tmp_path):
    stored = {"x_test": np.zeros((2, 3, 3)), "y_test": np.zeros(2, int)} | arrays
    np.savez(tmp_path / "x.npz", **{k: v for k, v in stored.items() if v is not None})
    with pytest.raises(ValueError, match=message):
        load_test("npz", tmp_path)


def test_other_names_of_the_parts_are_read(tmp_path):
    arrays = npz_arrays()
    names = {"x": "images", "y": "labels"}
    for test in ("test", "val"):
        renamed = {
            f"{test if part == 'test' else part}_{names[kind]}": array
            for (kind, part), array in ((name.split("_"), a) for name, a in arrays.items())
        }
        np.savez(tmp_path / "x.npz", **renamed)
        data = load("npz", tmp_path)
        assert data.label == ("x" if test == "test" else "x (tested on val)")
        np.testing.assert_array_equal(data.test.images[:, 0].numpy(), arrays["x_test"])
