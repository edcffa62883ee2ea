"""ONNX files as models: each node is a function of torch; to read a file is to record it."""

import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from taut.export._files import FileModel, check_ends, check_precision, resolve_shape
from taut.export._onnx import require_onnx
from taut.export._onnx_constants import array_of, value_of
from taut.program import READS
from taut.program.ops._numbers import DTYPES
from taut.program.ops._shapes import Turned

__all__ = ["model_of_onnx"]

_OPSETS = range(13, 24)  # their operators mean the same, but for axes that became inputs
_DOMAINS = ("", "ai.onnx")
_GIVEN = ("outputs", "batch", "moving")  # to functions that ask for them: no attributes


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
        return _read(model, onnx, input_shape, path.parent)
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a model: {_words(error)}.") from None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _read(
    model: Any, onnx: Any, input_shape: tuple[int, ...] | None, folder: Path
) -> tuple[FileModel, tuple[int, ...]]:
    versions = _by_name(model.opset_import, "domain", "set of operators")
    named = [versions[domain] for domain in _DOMAINS if domain in versions]
    if len(named) != 1 or named[0].version not in _OPSETS:
        raise ValueError(f"its operators must be of ONNX {_OPSETS[0]} to {_OPSETS[-1]}")
    graph = _inlined(model, onnx).graph
    if graph.sparse_initializer:
        raise ValueError("it must have no sparse tensors")
    check_ends(*([end.name for end in ends] for ends in (graph.input, graph.output)))
    tensors = _by_name(graph.initializer, "name", "constant")
    constants = {name: value_of(array_of(t, folder, onnx)) for name, t in tensors.items()}
    steps = []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in _DOMAINS:
            name, value = _constant(node, onnx)
            if constants.setdefault(name, value) is not value:
                raise ValueError(f"the constant `{name}` is there twice")
        else:
            steps.append(_step(node, onnx))
    source = graph.input[0]
    if source.name in constants:
        raise ValueError(f"`{source.name}` is both an input and a constant")
    dtype = check_precision(DTYPES.get(source.type.tensor_type.elem_type))
    sizes = [d.dim_value or None for d in source.type.tensor_type.shape.dim]
    if not sizes:
        raise ValueError("its input must have a shape, batch first")
    read = OnnxModel((source.name, graph.output[0].name), constants, steps, sizes[0], dtype)
    read.any_size = None in sizes[1:]
    return read, resolve_shape(sizes[1:], _given(model, input_shape))


def _inlined(model: Any, onnx: Any) -> Any:
    """The model without functions of its own; a function calls others that stand before it."""
    if not model.functions:
        return model
    known: set[tuple[str, str]] = set()
    own = {(f.domain, f.name) for f in model.functions}
    for function in model.functions:
        called = {(node.domain, node.op_type) for node in function.node} & own
        if called - known or (function.domain, function.name) in known:
            raise ValueError("its functions must call those before them, and be there once")
        known.add((function.domain, function.name))
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _constant(node: Any, onnx: Any) -> tuple[str, Any]:
    """The name and the value of a node that is a constant."""
    if len(node.attribute) != 1 or len(node.output) != 1 or node.input:
        raise ValueError(f"the constant `{node.name}` must have one value")
    return node.output[0], _option(node.attribute[0], onnx)


def _option(attribute: Any, onnx: Any) -> Any:
    """The value of an attribute: numbers, words, or a constant."""
    if attribute.ref_attr_name:
        raise ValueError(f"the attribute {attribute.name} belongs to no function")
    if attribute.type == onnx.AttributeProto.TENSOR:
        return value_of(array_of(attribute.t, Path("nowhere"), onnx))
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, int | float | str):
        return value
    values = [part.decode() if isinstance(part, bytes) else part for part in value]
    if not all(isinstance(part, int | float | str) for part in values):
        raise ValueError(f"the attribute {attribute.name} is of a kind that is not read")
    floats = attribute.type == onnx.AttributeProto.FLOATS
    return torch.tensor(values, dtype=torch.float32, device="cpu") if floats else values


def _by_name(entries: Iterable[Any], key: str, what: str) -> dict[str, Any]:
    """Entries by their names; of two with one name others may take the first, or the last."""
    known: dict[str, Any] = {}
    for entry in entries:
        fields = {field.name: value for field, value in entry.ListFields()}
        if known.setdefault(fields.get(key, ""), entry) is not entry:
            raise ValueError(f"the {what} `{fields.get(key, '')}` is there twice")
    return known


def _given(model: Any, given: tuple[int, ...] | None) -> tuple[int, ...] | None:
    props = _by_name(model.metadata_props, "key", "property")
    if given is None and "input_shape" in props:
        return tuple(map(int, props["input_shape"].value.split(",")))
    return given


Step = tuple[str, Any, list[str], dict[str, Any], list[str]]


def _step(node: Any, onnx: Any) -> Step:
    """One node: where it stands, its function, inputs, options and outputs."""
    where = f"`{node.name or next(iter(node.output), '')}` ({node.op_type})"
    if node.op_type not in READS or node.domain not in _DOMAINS or node.overload:
        raise ValueError(f"{where} is an operator without a reader")
    entries = _by_name(node.attribute, "name", f"attribute of {where}")
    options = {name: _option(a, onnx) for name, a in entries.items()}
    if any(isinstance(value, float) and not math.isfinite(value) for value in options.values()):
        raise ValueError(f"{where} has a number that is not finite")
    function = READS[node.op_type]
    known = inspect.signature(function).parameters
    unknown = [name for name in options if name not in known or name in _GIVEN]
    if unknown:
        raise ValueError(f"{where} has the attribute {unknown[0]}")
    if not node.output or not node.output[0]:
        raise ValueError(f"{where} has no output")
    if "outputs" in known:
        options["outputs"] = len(node.output)
    options |= {name: None for name in ("batch", "moving") if name in known}
    return where, function, list(node.input), options, list(node.output)


@final
class OnnxModel(FileModel):
    """A model that runs the nodes of a graph as functions of torch.

    Args:
        ends: names of the input and of the output.
        constants: by name; None where a kind is not read.
        steps: nodes in their order.
        batch: the size of the batch that the file is for; None if it takes any. It stands for the
            size of any batch, as the samples are apart.
        dtype: of the input.
    """

    def __init__(
        self,
        ends: tuple[str, str],
        constants: dict[str, Any],
        steps: list[Step],
        batch: int | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(dtype)
        (self.source, self.output), self.steps, self.batch = ends, steps, batch
        self.numbers: dict[str, Any] = {}
        for name, value in constants.items():
            if isinstance(value, Tensor):
                self.hold(name, value)
            else:
                self.numbers[name] = value

    def forward(self, x: Tensor) -> Tensor:
        """Run node after node."""
        values: dict[str, Any] = {self.source: x} | self.numbers | self.tensors()
        moving = {self.source}
        for where, function, inputs, options, outputs in self.steps:
            given = [self._value(where, name, values) for name in inputs]
            taken = [n for n in outputs if n in values]
            if taken:
                raise ValueError(f"{where}: `{taken[0]}` is made twice")
            signals = [name in moving for name in inputs]
            if "batch" in options:
                options = options | {"batch": self.batch if any(signals) else None}
            if "moving" in options:
                options = options | {"moving": signals}
            try:
                _check_precision(given)
                result = function(*given, **options)
            except TypeError as error:
                raise ValueError(
                    f"{where}: its inputs are others than were expected ({error})"
                ) from None
            except (RuntimeError, ValueError, IndexError) as error:
                raise type(error)(f"{where}: {error}") from None
            except ArithmeticError as error:
                raise ValueError(f"{where}: {error}") from None
            results = result if isinstance(result, tuple) else (result,)
            made = {n: part for n, part in zip(outputs, results, strict=False) if n}
            if any(signals):
                moving |= {n for n, part in made.items() if isinstance(part, Tensor | Turned)}
            values |= {n: p if n in moving else _as_numbers(p) for n, p in made.items()}
        if not isinstance(values.get(self.output), Tensor):
            raise ValueError(f"`{self.output}` is no value of the graph")
        return values[self.output]

    def _value(self, where: str, name: str, values: dict[str, Any]) -> Any:
        if not name:
            return None
        if name not in values or values[name] is None:
            unread = name in self.numbers
            what = "a constant of a kind that is not read" if unread else "no value of the graph"
            raise ValueError(f"{where}: `{name}` is {what}")
        return values[name]


def _check_precision(values: list[Any]) -> None:
    """Nodes of ONNX never mix precisions, but functions of torch do."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len({t.dtype for t in tensors if t.is_floating_point()}) > 1:
        raise ValueError("its inputs are of more than one precision")


def _as_numbers(value: Any) -> Any:
    """What is computed of constants, in the form of constants."""
    if isinstance(value, Tensor) and value.dim() <= (0 if value.is_floating_point() else 1):
        return value.tolist()
    return value
