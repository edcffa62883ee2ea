"""Constants of ONNX files, in the file or beside it, as what functions of torch take."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["array_of", "value_of"]

_FIELDS = ("location", "offset", "length", "checksum")
_KINDS = "fiub"  # of numpy: real and whole numbers, and truth values


def array_of(tensor: Any, folder: Path, onnx: Any) -> np.ndarray:
    """The numbers of a constant; those beside the file lie in its folder, and are measured."""
    where = f"`{tensor.name}`"
    if any(n < 0 for n in tensor.dims):
        raise ValueError(f"{where} has a size below 0")
    if sum(field.name.endswith("_data") for field, _ in tensor.ListFields()) > 1:
        raise ValueError(f"{where} has its numbers twice")
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        return _outside(tensor, folder, onnx, where)
    if tensor.HasField("segment"):
        raise ValueError(f"{where} is in segments")
    return onnx.numpy_helper.to_array(tensor)


def _outside(tensor: Any, folder: Path, onnx: Any, where: str) -> np.ndarray:
    """Numbers in a file beside the model: no path leads out of the folder, nor behind the file."""
    fields: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key not in _FIELDS or entry.key in fields:
            raise ValueError(f"{where} says `{entry.key}` of another file, or says it twice")
        fields[entry.key] = entry.value
    if tensor.data_location != onnx.TensorProto.EXTERNAL or tensor.raw_data:
        raise ValueError(f"{where} has its numbers twice")
    path = _beside(fields.get("location", ""), folder, where)
    places = [fields.get(key, "0") for key in ("offset", "length")]
    if not all(text.isascii() and text.isdecimal() and len(text) < 20 for text in places):
        raise ValueError(f"{where} must say its place in {path.name} in whole numbers")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if dtype.kind not in _KINDS:
        raise ValueError(f"{where} is of a kind that is not read")
    count, offset = math.prod(tensor.dims), int(places[0])
    size, there = count * dtype.itemsize, path.stat().st_size
    if "length" in fields and int(places[1]) != size:
        raise ValueError(f"{where} needs {size} bytes of {path.name}, and says {fields['length']}")
    if offset + size > there:
        raise ValueError(f"{where} ends at byte {offset + size} of {path.name}, which has {there}")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(tuple(tensor.dims))


def _beside(location: str, folder: Path, where: str) -> Path:
    """The file of a location, which must lie in the folder of the model, links followed."""
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or ":" in location or "" in parts or ".." in parts:
        raise ValueError(f"{where} lies in {location!r}, which is no file in the model's folder")
    path = folder / location
    if not path.is_file():
        raise ValueError(f"{where} lies in {location}, which is not in {folder}; put it there")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where} lies in {location}, which leads out of the model's folder")
    return path


def value_of(array: np.ndarray) -> Any:
    """A constant as functions of torch take it; None where its kind is not read.

    Whole numbers and truth values are numbers or lists of numbers, as shapes are; only those of
    more axes are tensors. Single real numbers are numbers.
    """
    if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
        return None
    if array.dtype.kind in "iub":
        if array.ndim <= 1:
            return array.tolist()
        whole = array.dtype if array.dtype.kind == "b" else np.int64
        return torch.from_numpy(array.astype(whole))
    return float(array) if array.ndim == 0 else torch.from_numpy(array.copy())
