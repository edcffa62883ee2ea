"""An ONNX graph read back: only operators, attributes and constants that are understood."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from taut.deploy.plan import Plan
from taut.deploy.reading import Reading, resolve_shape
from taut.deploy.to_onnx import block_order, require_onnx

__all__ = ["plan_of_onnx"]

_OPSETS = range(18, 24)  # their operators below mean the same
_END = (1 << 31) - 1  # a slice to here goes to the end


def plan_of_onnx(path: Path, input_shape: tuple[int, ...] | None = None) -> Plan:
    """Read an ONNX file of layers that :func:`taut.deploy.load` can make again.

    Args:
        path: the file.
        input_shape: of one input, where the file leaves sizes open.

    Raises:
        ValueError: naming the file, if it is damaged or holds anything that is not understood.
    """
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


def _read(model: Any, onnx: Any, input_shape: tuple[int, ...] | None) -> Plan:
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
    said = [d.dim_value or None for d in source.type.tensor_type.shape.dim][1:]
    reader = _Reader(source.name, constants, _shape(model, said, input_shape))
    for node in graph.node:
        reader.add(node, onnx)
    return reader.reading.plan(graph.output[0].name, reader.input_shape, None in said)


def _by_name(entries: Any, key: str, what: str) -> dict[str, Any]:
    """Entries by their names; of two with one name others may take the first, or the last."""
    found: dict[str, Any] = {}
    for entry in entries:
        fields = {field.name: value for field, value in entry.ListFields()}
        if found.setdefault(fields.get(key, ""), entry) is not entry:
            raise ValueError(f"the {what} `{fields.get(key, '')}` is there twice")
    return found


def _constant(tensor: Any, onnx: Any) -> np.ndarray:
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise ValueError(f"`{tensor.name}` lies in another file")
    if sum(field.name.endswith("_data") for field, _ in tensor.ListFields()) > 1:
        raise ValueError(f"`{tensor.name}` has its numbers twice")
    return onnx.numpy_helper.to_array(tensor)


def _shape(model: Any, said: list[int | None], given: tuple[int, ...] | None) -> tuple[int, ...]:
    props = _by_name(model.metadata_props, "key", "property")
    if given is None and "input_shape" in props:
        given = tuple(map(int, props["input_shape"].value.split(",")))
    return resolve_shape(said, given)


@final
class _Reader:
    def __init__(
        self, source: str, constants: Mapping[str, np.ndarray], shape: tuple[int, ...]
    ) -> None:
        self.input_shape = shape
        self.constants = dict(constants)
        floats = {n: torch.from_numpy(a.copy()) for n, a in constants.items() if a.dtype == "f4"}
        if source in constants:
            raise ValueError(f"`{source}` is both an input and a constant")
        self.reading = Reading(source, floats)

    def add(self, node: Any, onnx: Any) -> None:
        """Read one node."""
        where = f"`{node.name or node.output[0]}` ({node.op_type})"
        if node.op_type not in _READ or node.domain not in ("", "ai.onnx") or node.overload:
            raise ValueError(f"{where} is an operator without a reader")
        defaults, read = _READ[node.op_type]
        found = _by_name(node.attribute, "name", f"attribute of {where}")
        unknown = sorted(set(found) - set(defaults))
        if unknown:
            raise ValueError(f"{where} has the attribute {unknown[0]}")
        attributes = {name: onnx.helper.get_attribute_value(a) for name, a in found.items()}
        # The places of what was sorted are unknown values: nothing can read them.
        if (any(node.output[1:]) and node.op_type != "TopK") or not node.output[0]:
            raise ValueError(f"{where} has more than one output")
        if node.output[0] in self.constants or "" in node.input:
            raise ValueError(f"{where} leaves out an input or writes over a constant")
        try:
            read(self, node.output[0], list(node.input), {**defaults, **attributes})
            for name in filter(None, node.output[1:]):
                self.reading.hide(name)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def integers(self, name: str) -> list[int]:
        """A constant of whole numbers."""
        value = self.constants.get(name)
        if value is None or value.dtype != np.int64 or value.ndim > 1:
            raise ValueError(f"`{name}` is no constant of whole numbers")
        return [int(v) for v in value.reshape(-1)]

    def tensor(self, name: str) -> Tensor:
        """A constant of float32."""
        if name not in self.reading.tensors:
            raise ValueError(f"`{name}` is no constant of float32")
        return self.reading.tensors[name]

    def held(self, names: list[str], *roles: str) -> dict[str, str]:
        """Tensors by their roles; the last ones may be missing."""
        if len(names) > len(roles):
            raise ValueError("it has too many inputs")
        pairs = list(zip(roles, names, strict=False))
        for _, name in pairs:
            self.tensor(name)
        return dict(pairs)


Options = dict[str, Any]


def _pads(pads: list[int]) -> tuple[int, int, int, int]:
    """Left, right, top, bottom of an image's pads."""
    if len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)):
        raise ValueError("it must pad the axes of an image only")
    return pads[3], pads[7], pads[2], pads[6]


def _conv(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    held = r.held(inputs[1:], "weight", "bias")
    if r.tensor(held["weight"]).dim() != 4 or _text(options["auto_pad"]) != "NOTSET":
        raise ValueError("it must be a convolution of images with explicit pads")
    top, left, bottom, right = options["pads"]
    if (top, left) != (bottom, right) or min(top, left) < 0:
        raise ValueError("it pads the sides unequally")
    kernel = tuple(r.tensor(held["weight"]).shape[2:])
    if tuple(options["kernel_shape"] or kernel) != kernel:
        raise ValueError("its kernel has another shape than it says")
    args = {"stride": tuple(options["strides"]), "padding": (top, left)}
    args |= {"dilation": tuple(options["dilations"]), "groups": options["group"]}
    r.reading.convolve(y, inputs[0], held, args)


def _gemm(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    if (options["alpha"], options["beta"], options["transA"], options["transB"]) != (1, 1, 0, 1):
        raise ValueError("it must be x W^T + b")
    held = r.held(inputs[1:], "weight", "bias")
    r.reading.step(y, "Linear", inputs[:1], {}, held)


def _batch_norm(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    held = r.held(inputs[1:], "weight", "bias", "running_mean", "running_var")
    if len(held) != 4 or options["training_mode"]:
        raise ValueError("it must be in inference mode, with 4 tensors")
    r.reading.step(y, "BatchNorm2d", inputs[:1], {"eps": options["epsilon"]}, held)


def _pad(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    if len(inputs) != 2:
        raise ValueError("it must pad by zeros or wrap all axes")
    mode, pads = _text(options["mode"]), r.reading.values.get(inputs[1])
    if isinstance(pads, tuple) and pads[0] == "to multiple" and mode == "constant":
        *_, x, multiple = pads
        if x != r.reading.signal(inputs[0]):
            raise ValueError("it pads by the size of another value")
        r.reading.step(y, "PadToMultiple2d", inputs[:1], {"multiple": multiple})
        return
    sides = _pads(r.integers(inputs[1]))
    if mode == "wrap":
        r.reading.wrap(y, inputs[0], sides)
    elif mode == "constant":
        r.reading.pad(y, inputs[0], sides)
    else:
        raise ValueError(f"its mode must be constant or wrap; got {mode}")


def _size(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    r.reading.soft("shape", y, inputs[0], options["start"], options["end"])


def _negative(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    r.reading.soft("negative", y, inputs[0])


def _modulo(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    if options["fmod"]:
        raise ValueError("fmod must be 0")
    r.reading.soft("modulo", y, inputs[0], tuple(r.integers(inputs[1])))


def _concat(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    if options["axis"] == 1:
        r.reading.concatenate(y, inputs)
        return
    match [r.reading.values.get(name) for name in inputs]:
        case [None, ("modulo", ("negative", ("shape", str(x), 2, 4)), (_, _) as multiple)]:
            if options["axis"] == 0 and r.integers(inputs[0]) == [0] * 6:
                r.reading.soft("to multiple", y, inputs[1], x, multiple)
                return
    raise ValueError("it concatenates along another axis than the channels")


def _slice(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    (start,), (stop,), (axis,) = map(r.integers, inputs[1:])
    r.reading.slice(y, inputs[0], axis, start, None if stop >= _END else stop)


def _max(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    r.reading.pairwise("max", y, *inputs)


def _min(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    r.reading.pairwise("min", y, *inputs)


def _reshape(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    x, shape = (r.reading.values.get(name) for name in inputs)
    if options["allowzero"]:
        raise ValueError("allowzero must be 0")
    match x, shape:
        case (("slice", _, 0, whole), None):
            batch, groups, size, rest = r.integers(inputs[1])
            if (batch, groups * size, rest) == (0, whole, -1):
                r.reading.soft("split", y, inputs[0], size)
                return
        case (("sorted", ("split", head, _)), ("shape", other, 0, None)) if head == other:
            r.reading.soft("merged", y, inputs[0])
            return
    raise ValueError("it reshapes a value that is not sorted in groups")


def _top_k(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    if (options["axis"], options["largest"], options["sorted"]) != (2, 0, 1):
        raise ValueError("it must sort groups in ascending order")
    match r.reading.values.get(inputs[0]):
        case ("split", _, size) if r.integers(inputs[1]) == [size]:
            r.reading.soft("sorted", y, inputs[0])
        case _:
            raise ValueError("it must sort whole groups")


def _blocks(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    r.reading.soft("blocks", y, inputs[0], inputs[0], options["blocksize"])


def _gather(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    order = r.integers(inputs[1])
    match r.reading.values.get(inputs[0]):
        case ("blocks", str(), x, factor) if options["axis"] == 1 and factor:
            channels = len(order) // factor**2
            if order == block_order(channels, factor):
                r.reading.downsample(y, x, factor, channels)
                return
    raise ValueError("it takes other channels than a downsampling does")


def _pool(kind: str) -> Callable[..., None]:
    def read(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
        plain = any(options["pads"]), options["ceil_mode"], _text(options["auto_pad"])
        if plain != (False, 0, "NOTSET") or set(options["dilations"]) != {1}:
            raise ValueError("it must have no pads, dilations or ceil_mode")
        size, stride = tuple(options["kernel_shape"]), tuple(options["strides"])
        if len(size) != 2:
            raise ValueError("it must pool images")
        r.reading.step(y, kind, inputs, {"kernel_size": size, "stride": stride})

    return read


def _scale(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    x, name = inputs if inputs[1] in r.constants else inputs[::-1]
    if r.tensor(name).numel() != 1 or r.tensor(name).dim() > 1:  # else it would add axes
        raise ValueError("it must multiply by one number")
    r.reading.step(y, "Scale", [x], {"factor": r.tensor(name).item()})


def _flatten(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    if options["axis"] != 1:
        raise ValueError("it must flatten all but the batch")
    r.reading.step(y, "Flatten", inputs)


def _identity(r: _Reader, y: str, inputs: list[str], options: Options) -> None:
    r.reading.same(y, inputs[0])


def _plain(kind: str, args: Mapping[str, Any]) -> Callable[..., None]:
    return lambda r, y, inputs, options: r.reading.step(y, kind, inputs, args)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_POOL: Options = {
    "auto_pad": "NOTSET", "ceil_mode": 0, "dilations": [1, 1], "kernel_shape": (),
    "pads": [0] * 4, "strides": [1, 1],
}  # fmt: skip
_READ: dict[str, tuple[Options, Callable[..., None]]] = {
    "Add": ({}, _plain("Add", {})),
    "AveragePool": ({**_POOL, "count_include_pad": 0}, _pool("AvgPool2d")),
    "BatchNormalization": (
        {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0}, _batch_norm
    ),
    "Concat": ({"axis": None}, _concat),
    "Conv": (
        {"auto_pad": "NOTSET", "dilations": [1, 1], "group": 1, "kernel_shape": (),
         "pads": [0] * 4, "strides": [1, 1]},
        _conv,
    ),
    "Flatten": ({"axis": 1}, _flatten),
    "Gather": ({"axis": 0}, _gather),
    "Gemm": ({"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}, _gemm),
    "GlobalAveragePool": ({}, _plain("AdaptiveAvgPool2d", {"output_size": (1, 1)})),
    "Identity": ({}, _identity),
    "Max": ({}, _max),
    "MaxPool": ({**_POOL, "storage_order": 0}, _pool("MaxPool2d")),
    "Min": ({}, _min),
    "Mod": ({"fmod": 0}, _modulo),
    "Mul": ({}, _scale),
    "Neg": ({}, _negative),
    "Pad": ({"mode": "constant"}, _pad),
    "Relu": ({}, _plain("ReLU", {})),
    "Reshape": ({"allowzero": 0}, _reshape),
    "Shape": ({"start": 0, "end": None}, _size),
    "Slice": ({}, _slice),
    "SpaceToDepth": ({"blocksize": 0}, _blocks),
    "TopK": ({"axis": -1, "largest": 1, "sorted": 1}, _top_k),
}  # fmt: skip
