"""Points named by a word: csv, npy, npz and parquet files, whole and broken."""

import sys

import numpy as np
import pytest

from taut.wasserstein import read_source


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "x,y\n1,2\n3.5,-4e3\n"),
        ("a.CSV", "1,2\n\n3.5,-4e3\n"),
        ("a.csv", '\ufeff"x";"y"\r\n1;2\r\n"3.5";-4e3'),
        ("a.tsv", "x\ty\n1\t2\n3.5\t-4000\n"),
    ],
)
def test_points_are_read_from_text(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    found = read_source(tmp_path / name)
    assert not found.pixels
    assert sorted(found.points.tolist()) == [[1.0, 2.0], [3.5, -4000.0]]


def test_one_column_is_a_line_and_one_line_a_point(tmp_path):
    (tmp_path / "a.csv").write_text("height\n1\n2\n3\n")
    assert read_source(tmp_path / "a.csv").points.shape == (3, 1)
    (tmp_path / "a.csv").write_text("1,2,3\n")
    assert read_source(tmp_path / "a.csv").points.shape == (1, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no point"),
        ("x,y\n", "it holds no point"),
        ("x,y\n1,cat\n", "could not convert string 'cat' to float64"),
        ("x,y\n1,2\n1,\n", "could not convert string ''"),
        ("1,2\n3\n", "number of columns changed from 2 to 1"),
        (",x,y\n0,1,2\n", "a column has no name: leave out the numbers of the rows"),
        ("1 2\n3 4\n", "could not convert string '3 4'"),
    ],
)
def test_text_that_holds_no_points_is_one_sentence(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_source(tmp_path / "a.csv")
    assert str(caught.value).startswith(f"{tmp_path}/a.csv must hold one point a line, as numbers:")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["f2", "<f4", ">f4", "<f8", ">f8"])
def test_arrays_of_floats_are_points(kind, tmp_path):
    points = np.arange(6).reshape(3, 2).astype(kind)
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "b.npz", points)
    for name in ("a.npy", "b.npz"):
        assert sorted(read_source(tmp_path / name).points.tolist()) == points.tolist()


@pytest.mark.parametrize("name", ["x", "x_train", "train_images", "images", "data", "points"])
def test_npz_files_hold_points_under_the_usual_names(name, tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.zeros(2, int), **{name: np.eye(2)})
    assert sorted(read_source(tmp_path / "a.npz").points.tolist()) == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("array", [np.arange(4), np.float64(1.0), np.array([{}]), np.zeros(2, "?")])
def test_arrays_that_hold_no_points_are_refused(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_source(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.npz", "a.parquet"])
def test_files_without_an_end_are_refused(name, tmp_path):
    (tmp_path / name).symlink_to("/dev/zero")
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="is a device or a pipe, not a file"):
        read_source(tmp_path / name)


def test_parquet_needs_its_library(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match="needs the library pyarrow: pip install"):
        read_source(tmp_path / "a.parquet")


def test_parquet_columns_are_coordinates(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"x": [1.0, 3.5], "y": [2, -4000]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read_source(tmp_path / "a.parquet").points
    assert sorted(found.tolist()) == [[1.0, 2.0], [3.5, -4000.0]]
    parquet.write_table(table.append_column("name", [["a", "b"]]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"must hold columns of numbers; got name \(string\)"):
        read_source(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a complete parquet file"):
        read_source(tmp_path / "a.parquet")


def test_misspelt_words_are_asked_about(tmp_path):
    with pytest.raises(ValueError, match=r"none of that name\. Did you mean mnist\?"):
        read_source("mnits")
    (tmp_path / "a.cvs").write_text("1\n")
    with pytest.raises(ValueError, match=r"must end in \.npz, .* Did you mean \.csv\?"):
        read_source(tmp_path / "a.cvs")
