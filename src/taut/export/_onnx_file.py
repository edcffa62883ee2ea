"""ONNX files as models: each node is a function of torch; to read a file is to record it."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from taut.export._files import FileModel, resolve_shape
from taut.export._onnx import require_onnx
from taut.program import READS

__all__ = ["model_of_onnx"]

_OPSETS = range(18, 24)  # their operators mean the same


def model_of_onnx(
    path: Path, input_shape: tuple[int, ...] | None = None
) -> tuple[FileModel, tuple[int, ...]]:
    """An ONNX file as a model, and the shape of one input."""
    onnx = require_onnx()
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (ValueError, RuntimeError, onnx.onnx_cpp2py_export.checker.ValidationError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({_words(error)}).") from None
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # of protobuf, which onnx does not re-export
            raise
        raise ValueError(f"{path} is damaged and cannot be read ({_words(error)}).") from None
    try:
        return _read(model, onnx, input_shape)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a model: {_words(error)}.") from None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _read(
    model: Any, onnx: Any, input_shape: tuple[int, ...] | None
) -> tuple[FileModel, tuple[int, ...]]:
    versions = _by_name(model.opset_import, "domain", "set of operators")
    if set(versions) != {""} or versions[""].version not in _OPSETS:
        raise ValueError(f"its operators must be of ONNX {_OPSETS[0]} to {_OPSETS[-1]}")
    graph = model.graph
    if model.functions or graph.sparse_initializer or len(graph.input) != 1:
        raise ValueError("it must have one input, and neither functions nor sparse tensors")
    if len(graph.output) != 1:
        raise ValueError("it must have one output")
    tensors = _by_name(graph.initializer, "name", "constant")
    constants = {name: _constant(tensor, onnx) for name, tensor in tensors.items()}
    source = graph.input[0]
    if source.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ValueError("its input must be float32")
    if source.name in constants:
        raise ValueError(f"`{source.name}` is both an input and a constant")
    said = [d.dim_value or None for d in source.type.tensor_type.shape.dim][1:]
    steps = [_step(node, onnx) for node in graph.node]
    read = OnnxModel(source.name, graph.output[0].name, constants, steps)
    read.any_size = None in said
    return read, resolve_shape(said, _given(model, input_shape))


def _by_name(entries: Iterable[Any], key: str, what: str) -> dict[str, Any]:
    """Entries by their names; of two with one name others may take the first, or the last."""
    known: dict[str, Any] = {}
    for entry in entries:
        fields = {field.name: value for field, value in entry.ListFields()}
        if known.setdefault(fields.get(key, ""), entry) is not entry:
            raise ValueError(f"the {what} `{fields.get(key, '')}` is there twice")
    return known


def _constant(tensor: Any, onnx: Any) -> np.ndarray:
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise ValueError(f"`{tensor.name}` lies in another file")
    if sum(field.name.endswith("_data") for field, _ in tensor.ListFields()) > 1:
        raise ValueError(f"`{tensor.name}` has its numbers twice")
    if any(n < 0 for n in tensor.dims):
        raise ValueError(f"`{tensor.name}` has a size below 0")
    return onnx.numpy_helper.to_array(tensor)


def _given(model: Any, given: tuple[int, ...] | None) -> tuple[int, ...] | None:
    props = _by_name(model.metadata_props, "key", "property")
    if given is None and "input_shape" in props:
        return tuple(map(int, props["input_shape"].value.split(",")))
    return given


Step = tuple[str, Any, list[str], dict[str, Any], list[str]]


def _step(node: Any, onnx: Any) -> Step:
    """One node: where it stands, its function, inputs, options and outputs."""
    where = f"`{node.name or node.output[0]}` ({node.op_type})"
    if node.op_type not in READS or node.domain not in ("", "ai.onnx") or node.overload:
        raise ValueError(f"{where} is an operator without a reader")
    entries = _by_name(node.attribute, "name", f"attribute of {where}")
    options = {name: _plain(onnx.helper.get_attribute_value(a)) for name, a in entries.items()}
    function = READS[node.op_type]
    known = inspect.signature(function).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{where} has the attribute {unknown[0]}")
    if not node.output or not node.output[0]:
        raise ValueError(f"{where} has no output")
    return where, function, list(node.input), options, list(node.output)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if not isinstance(value, int | float | str) else value


@final
class OnnxModel(FileModel):
    """A model that runs the nodes of a graph as functions of torch."""

    def __init__(
        self, source: str, output: str, constants: dict[str, np.ndarray], steps: list[Step]
    ) -> None:
        super().__init__()
        self.source, self.output, self.steps = source, output, steps
        self.numbers: dict[str, Any] = {}
        self.unread: set[str] = set()
        for name, value in constants.items():
            if value.dtype == np.int64 and value.ndim <= 1:
                self.numbers[name] = value.tolist()
            elif value.dtype == np.float32 and value.ndim == 0:
                self.numbers[name] = float(value)
            elif value.dtype == np.float32:
                self.hold(name, torch.from_numpy(value.copy()))
            else:
                self.unread.add(name)

    def forward(self, x: Tensor) -> Tensor:
        """Run node after node."""
        values: dict[str, Any] = {self.source: x} | self.numbers | self.tensors()
        for where, function, inputs, options, outputs in self.steps:
            missing = [n for n in inputs if n and n not in values]
            if missing:
                what = (
                    "a constant of a kind that is not read"
                    if missing[0] in self.unread
                    else "no value of the graph"
                )
                raise ValueError(f"{where}: `{missing[0]}` is {what}")
            taken = [n for n in outputs if n in values]
            if taken:
                raise ValueError(f"{where}: `{taken[0]}` is made twice")
            try:
                result = function(*(values[n] if n else None for n in inputs), **options)
            except TypeError as error:
                raise ValueError(
                    f"{where}: its inputs are others than were expected ({error})"
                ) from None
            except (RuntimeError, ValueError, IndexError) as error:
                raise type(error)(f"{where}: {error}") from None
            results = result if isinstance(result, tuple) else (result,)
            values |= {n: part for n, part in zip(outputs, results, strict=False) if n}
        if self.output not in values:
            raise ValueError(f"`{self.output}` is no value of the graph")
        return values[self.output]
