"""Points in files: npz, npy, csv and parquet."""

import csv
import importlib
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from taut.data import read_array, read_arrays
from taut.data._checks import check_size, size_of

_USUAL = ("x", "x_train", "train_images", "images", "data", "points")
_CELLS = ",;\t"


Columns = tuple[str, ...] | None


def read_points(path: Path) -> tuple[Tensor, Columns]:
    """The points of a file whose suffix is one of `READERS`, in rows, and names of their columns.

    Pixels stay uint8.
    """
    array, columns = READERS[path.suffix.lower()](path)
    return _as_points(path, array), columns


def _as_points(path: Path, array: np.ndarray) -> Tensor:
    if array.dtype.kind == "f" and array.itemsize <= 8:
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    elif array.dtype != np.uint8:
        raise ValueError(f"{path} must hold points as floats or as uint8; got {array.dtype}.")
    points, pixels = torch.from_numpy(array), array.dtype == np.uint8
    # Numbers on a line, or images as they are stored elsewhere: grey without channels, ...
    if points.ndim == 1 or (pixels and points.ndim == 3):
        return points[:, None]
    # ... or channels last.
    last = pixels and points.ndim == 4 and points.shape[3] in (1, 3)
    return points.permute(0, 3, 1, 2) if last and points.shape[1] not in (1, 3) else points


def _read_npz(path: Path) -> tuple[np.ndarray, Columns]:
    """The only array, or the first that has one of the usual names."""
    arrays = read_arrays(path)
    chosen = [arrays[name] for name in _USUAL if name in arrays]
    chosen = list(arrays.values()) if len(arrays) == 1 else chosen
    if not chosen or chosen[0].dtype.kind not in "fu" or not chosen[0].ndim:
        raise ValueError(
            f"{path} must hold points in one array, or in {', '.join(_USUAL)}, of floats or uint8; "
            f"it holds {_listing(arrays) or 'none'}."
        )
    return chosen[0], None


def _listing(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} ({a.dtype} of shape {a.shape})" for name, a in arrays.items())


def _read_npy(path: Path) -> tuple[np.ndarray, Columns]:
    array = read_array(path)
    if not array.ndim:
        raise ValueError(f"{path} must hold an array of points; got one number.")
    return array, None


def _read_csv(path: Path) -> tuple[np.ndarray, Columns]:
    """One point a line; the first line may name the columns."""
    check_size(4 * size_of(path), size_of(path), path)  # "0," is two bytes, a float64 eight
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            start = file.readline()
            separator = max(_CELLS, key=start.count)
            names = next(csv.reader([start.strip("\r\n")], delimiter=separator), [])
            header = not all(map(_is_number, names))
            if header and not all(name.strip() for name in names):
                raise ValueError("a column has no name: leave out the numbers of the rows")
            if not header:
                file.seek(0)
            options = {"delimiter": separator, "ndmin": 2, "comments": None, "quotechar": '"'}
            lines = (line for line in file if line.strip())
            first = next(lines, "")
            if not first:
                raise ValueError("it holds no point")
            columns = tuple(name.strip() for name in names) if header else None
            return np.loadtxt(itertools.chain([first], lines), **options), columns
    except (ValueError, UnicodeError, csv.Error) as error:
        reason = str(error).partition(";")[0].rstrip(".")
        raise ValueError(f"{path} must hold one point a line, as numbers: {reason}.") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_parquet(path: Path) -> tuple[np.ndarray, Columns]:
    """One point a row, its numbers in columns."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        message = f"Reading {path} needs the library pyarrow: pip install 'taut[tables]'."
        raise ModuleNotFoundError(message) from error
    size = size_of(path)
    try:
        with parquet.ParquetFile(path) as file:
            facts, schema = file.metadata, file.schema_arrow
            check_size(8 * facts.num_rows * max(1, facts.num_columns), size, path)
            wrong = [f"{c.name} ({c.type})" for c in schema if not _is_numeric(str(c.type))]
            if wrong or not len(schema):
                raise ValueError(f"{path} must hold columns of numbers; got {', '.join(wrong)}.")
            columns = [column.to_numpy() for column in file.read().columns]
    except (OSError, ValueError) as error:  # some of pyarrow's are both
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not a complete parquet file: {error}.") from None
    return np.stack(columns, 1).astype(np.float64, copy=False), tuple(schema.names)


def _is_numeric(kind: str) -> bool:
    return kind.startswith(("int", "uint", "float", "halffloat", "double"))


READERS: dict[str, Callable[[Path], tuple[np.ndarray, Columns]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
