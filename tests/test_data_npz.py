"""Data sets from one npz file, whole and broken."""

import numpy as np
import pytest
import torch

from taut.data import load


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
        ({"y_train": np.zeros(6)}, "y_train must be integers"),
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
