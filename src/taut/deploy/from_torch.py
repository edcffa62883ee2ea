"""A file of torch.export read back, as an archive of JSON and numbers: nothing in it is run."""

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from taut.deploy.plan import Plan
from taut.deploy.reading import Reading, resolve_shape

__all__ = ["plan_of_program"]

_LIMIT = 1 << 34  # no file in the archive is larger
_END = (1 << 31) - 1
_DTYPES = {7: torch.float32, 8: torch.float64}
_SHAPE = "extra/input_shape"  # where the file leaves sizes open
_SCHEMA = 8  # major version of the JSON
_LEGACY = "data/weights/model.pt"
_POSITIONAL = 1  # kind of an argument


def plan_of_program(path: Path, input_shape: tuple[int, ...] | None = None) -> Plan:
    """Read a file of torch.export of layers that :func:`taut.deploy.load` can make again.

    torch's own loader unpickles parts of such files; this reader takes the JSON of the graph and
    the plain numbers of the weights.

    Args:
        path: the file.
        input_shape: of one input, where the file leaves sizes open.

    Raises:
        ValueError: naming the file, if it is damaged or holds anything that is not understood.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = _files(archive)
            model = json.loads(
                _content(archive, files, "models/model.json"), object_pairs_hook=_once
            )
            if model["schema_version"]["major"] != _SCHEMA:
                raise ValueError(f"it is of version {model['schema_version']} of the format")
            if input_shape is None and _SHAPE in files:
                text = _content(archive, files, _SHAPE).decode()
                input_shape = tuple(map(int, text.split(",")))
            return _plan(model["graph_module"], _weights(archive, files), input_shape)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
            raise
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as a model: {reason}.") from None


def _files(archive: zipfile.ZipFile) -> dict[str, str]:
    """Names in the archive by names in its folder; of what is there twice others take another."""
    files = _once((name.partition("/")[2], name) for name in archive.namelist())
    if len({name.partition("/")[0] for name in files.values()}) != 1:
        raise ValueError("it must hold one folder")
    if _LEGACY in files:
        raise ValueError(f"it holds {_LEGACY}, which torch would take for its weights")
    return files


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it holds {name} twice")
        found[name] = value
    return found


def _content(archive: zipfile.ZipFile, files: Mapping[str, str], name: str) -> bytes:
    if name not in files:
        raise ValueError(f"it holds no {name}")
    if archive.getinfo(files[name]).file_size > _LIMIT:
        raise ValueError(f"{name} is too large")
    return archive.read(files[name])


def _weights(archive: zipfile.ZipFile, files: Mapping[str, str]) -> dict[str, Tensor]:
    tensors, numbers = {}, {}
    content = _content(archive, files, "data/weights/model_weights_config.json")
    for name, entry in json.loads(content, object_pairs_hook=_once)["config"].items():
        meta = entry["tensor_meta"]
        if not entry["use_pickle"] and numbers.setdefault(entry["path_name"], meta) != meta:
            raise ValueError(f"the numbers of {name} are also those of another shape")
        if entry["use_pickle"] or meta["dtype"] not in _DTYPES:
            continue  # of a step that needs it, it is missed by name
        shape = [size["as_int"] for size in meta["sizes"]]
        strides = [stride["as_int"] for stride in meta["strides"]]
        plain = torch.empty(shape, device="meta")
        if meta["storage_offset"]["as_int"] or strides != list(plain.stride()):
            raise ValueError(f"the numbers of {name} are not in their order")
        data = _content(archive, files, f"data/weights/{entry['path_name']}")
        dtype = _DTYPES[meta["dtype"]]
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has not as many numbers as its shape")
        tensors[name] = torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
    return tensors


def _plan(module: Mapping[str, Any], tensors: dict[str, Tensor], given: Any) -> Plan:
    graph = module["graph"]
    source, result, held = _ends(graph, module["signature"])
    used = {tensors[name].dtype for name in held.values() if name in tensors}
    if len(used) > 1:
        raise ValueError("its tensors must be of one precision")
    said = [size.get("as_int") for size in graph["tensor_values"][source]["sizes"]][1:]
    shape = resolve_shape(said, given)
    reader = _Reader(source, held, tensors)
    for node in graph["nodes"]:
        reader.add(node)
    return reader.reading.plan(result, shape, None in said)


def _ends(graph: Mapping[str, Any], signature: Mapping[str, Any]) -> tuple[str, str, dict]:
    """Names of the input and of the output, and of the tensors by their names in the graph."""
    inputs, held = [], {}
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        name = content["arg"].get("name") or content["arg"]["as_tensor"]["name"]
        inputs.append(name)
        if kind == "parameter" or (kind == "buffer" and content["persistent"]):
            held[name] = content[f"{kind}_name"]
        elif kind != "user_input":
            raise ValueError(f"it has an input of the kind {kind}")
    sources = [name for name in inputs if name not in held]
    ((kind, content),) = (item for spec in signature["output_specs"] for item in spec.items())
    if kind != "user_output" or len(sources) != 1:
        raise ValueError("it must have one input and one output, and write to no buffer")
    result = content["arg"]["as_tensor"]["name"]
    # torch runs from the ends that the graph has, and takes its weights by their places.
    for ends, said in ((graph["inputs"], inputs), (graph["outputs"], [result])):
        if [end["as_tensor"]["name"] for end in ends] != said or len(set(said)) != len(said):
            raise ValueError("its graph has other inputs or outputs than its signature")
    return sources[0], result, held


@final
class _Reader:
    def __init__(self, source: str, held: dict[str, str], tensors: dict[str, Tensor]) -> None:
        self.held = held
        self.reading = Reading(source, tensors)

    def add(self, node: Mapping[str, Any]) -> None:
        """Read one node."""
        target = node["target"].removeprefix("torch.ops.")
        if target not in _READ:
            raise ValueError(f"`{node['name']}` ({target}) is an operator without a reader")
        values = _once((entry["name"], self._value(entry["arg"])) for entry in node["inputs"])
        defaults, read = _READ[target]
        missing = [k for k, v in defaults.items() if v is ... and k not in values]
        unknown = sorted(set(values) - set(defaults))
        # Without a name in the call: torch puts them side by side, whatever was left out between.
        placed = {entry["name"] for entry in node["inputs"] if entry["kind"] == _POSITIONAL}
        if unknown or missing or placed != set(list(defaults)[: len(placed)]):
            raise ValueError(f"`{node['name']}` ({target}) has other arguments than were expected")
        output, *others = (out["as_tensor"]["name"] for out in node["outputs"])
        try:
            read(self, output, {**defaults, **values})
            for other in others:
                self.reading.hide(other)
        except ValueError as error:
            raise ValueError(f"`{node['name']}` ({target}): {error}") from None

    def _value(self, arg: Mapping[str, Any]) -> Any:
        ((kind, value),) = arg.items()
        if kind == "as_tensor":
            return value["name"]
        if kind == "as_tensors":
            return [part["name"] for part in value]
        if kind == "as_none":
            return None
        if kind in ("as_int", "as_ints", "as_float", "as_bool", "as_string"):
            return tuple(value) if isinstance(value, list) else value
        raise ValueError(f"an argument is {kind.removeprefix('as_')}, which depends on sizes")

    def tensors(self, **roles: str | None) -> dict[str, str]:
        """Names in the file of the tensors in these roles."""
        found = {role: self.held.get(name) for role, name in roles.items() if name is not None}
        missing = [role for role, name in found.items() if name not in self.reading.tensors]
        if missing:
            raise ValueError(f"its {missing[0]} is no plain tensor of the file")
        return {role: name for role, name in found.items() if name is not None}


Values = dict[str, Any]


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value)
    return pair if len(pair) == 2 else (pair[0], pair[0])


def _conv2d(r: _Reader, y: str, v: Values) -> None:
    held = r.tensors(weight=v["weight"], bias=v["bias"])
    args = {k: _pair(v[k]) for k in ("stride", "padding", "dilation")} | {"groups": v["groups"]}
    r.reading.convolve(y, v["input"], held, args)


def _linear(r: _Reader, y: str, v: Values) -> None:
    held = r.tensors(weight=v["weight"], bias=v["bias"])
    r.reading.step(y, "Linear", [v["input"]], {}, held)


def _batch_norm(r: _Reader, y: str, v: Values) -> None:
    if v["training"]:
        raise ValueError("it is in training mode")
    roles = ("weight", "bias", "running_mean", "running_var")
    held = r.tensors(**{role: v[role] for role in roles})
    if len(held) != 4:
        raise ValueError("it must have a scale and statistics")
    r.reading.step(y, "BatchNorm2d", [v["input"]], {"eps": v["eps"]}, held)


def _pad(r: _Reader, y: str, v: Values) -> None:
    left, right, top, bottom = (*v["pad"], 0, 0)[:4] if len(v["pad"]) in (2, 4) else (-1,) * 4
    if v["mode"] == "circular":
        r.reading.wrap(y, v["self"], (left, right, top, bottom))
    elif v["mode"] == "constant" and not v["value"]:
        r.reading.pad(y, v["self"], (left, right, top, bottom))
    else:
        raise ValueError("it must pad by zeros, or circularly")


def _slice(r: _Reader, y: str, v: Values) -> None:
    stop = v["end"] if v["end"] is not None and v["end"] < _END else None
    if v["step"] != 1:
        raise ValueError("it leaves out entries")
    if (v["dim"], v["start"] or 0, stop) == (0, 0, None):
        r.reading.same(y, v["self"])
    else:
        r.reading.slice(y, v["self"], v["dim"], v["start"] or 0, stop)


def _pairwise(which: str) -> Callable[..., None]:
    return lambda r, y, v: r.reading.pairwise(which, y, v["self"], v["other"])


def _unflatten(r: _Reader, y: str, v: Values) -> None:
    match v["dim"], v["sizes"]:
        case 1, (int(), int(size)) if size > 0 and v["sizes"][0] == -1:
            r.reading.soft("split", y, v["self"], size)
        case _:
            raise ValueError("it splits something else than channels")


def _sort(r: _Reader, y: str, v: Values) -> None:
    if v["dim"] != 2 or v["descending"]:
        raise ValueError("it must sort groups of channels in ascending order")
    r.reading.soft("sorted", y, v["self"])


def _flatten(r: _Reader, y: str, v: Values) -> None:
    found = r.reading.values.get(v["self"])
    if (v["start_dim"], v["end_dim"]) == (1, -1):
        r.reading.step(y, "Flatten", [v["self"]])
    elif (v["start_dim"], v["end_dim"]) == (1, 2) and isinstance(found, tuple):
        r.reading.soft("merged", y, v["self"])
    else:
        raise ValueError("it must flatten all but the batch")


def _cat(r: _Reader, y: str, v: Values) -> None:
    if v["dim"] != 1:
        raise ValueError("it concatenates along another axis than the channels")
    r.reading.concatenate(y, v["tensors"])


def _pool(kind: str) -> Callable[..., None]:
    def read(r: _Reader, y: str, v: Values) -> None:
        plain = not any(v["padding"]) and not v["ceil_mode"]
        if not plain or v.get("divisor_override") or set(v.get("dilation", (1,))) != {1}:
            raise ValueError("it must have no padding, dilation, divisor or ceil_mode")
        size = _pair(v["kernel_size"])
        args = {"kernel_size": size, "stride": _pair(v["stride"]) if v["stride"] else size}
        r.reading.step(y, kind, [v["self"]], args)

    return read


def _global(r: _Reader, y: str, v: Values) -> None:
    if _pair(v["output_size"]) != (1, 1):
        raise ValueError("`output_size` must be 1")
    r.reading.step(y, "AdaptiveAvgPool2d", [v["self"]], {"output_size": (1, 1)})


def _add(r: _Reader, y: str, v: Values) -> None:
    if v["alpha"] != 1:
        raise ValueError("alpha must be 1")
    r.reading.step(y, "Add", [v["self"], v["other"]])


def _scale(r: _Reader, y: str, v: Values) -> None:
    if not isinstance(v["other"], int | float):
        raise ValueError("it must multiply by a number")
    r.reading.step(y, "Scale", [v["self"]], {"factor": float(v["other"])})


# The arguments of each operator in its own order, with their defaults.
_READ: dict[str, tuple[Values, Callable[..., None]]] = {
    "aten.adaptive_avg_pool2d.default": ({"self": ..., "output_size": ...}, _global),
    "aten.add.Tensor": ({"self": ..., "other": ..., "alpha": 1}, _add),
    "aten.avg_pool2d.default": (
        {"self": ..., "kernel_size": ..., "stride": (), "padding": (0,), "ceil_mode": False,
         "count_include_pad": True, "divisor_override": None},
        _pool("AvgPool2d"),
    ),
    "aten.batch_norm.default": (
        {"input": ..., "weight": ..., "bias": ..., "running_mean": ..., "running_var": ...,
         "training": ..., "momentum": ..., "eps": ..., "cudnn_enabled": ...},
        _batch_norm,
    ),
    "aten.cat.default": ({"tensors": ..., "dim": 0}, _cat),
    "aten.conv2d.default": (
        {"input": ..., "weight": ..., "bias": None, "stride": (1,), "padding": (0,),
         "dilation": (1,), "groups": 1},
        _conv2d,
    ),
    "aten.flatten.using_ints": ({"self": ..., "start_dim": 0, "end_dim": -1}, _flatten),
    "aten.linear.default": ({"input": ..., "weight": ..., "bias": None}, _linear),
    "aten.max_pool2d.default": (
        {"self": ..., "kernel_size": ..., "stride": (), "padding": (0,), "dilation": (1,),
         "ceil_mode": False},
        _pool("MaxPool2d"),
    ),
    "aten.maximum.default": ({"self": ..., "other": ...}, _pairwise("max")),
    "aten.minimum.default": ({"self": ..., "other": ...}, _pairwise("min")),
    "aten.mul.Tensor": ({"self": ..., "other": ...}, _scale),
    "aten.pad.default": ({"self": ..., "pad": ..., "mode": "constant", "value": None}, _pad),
    "aten.pixel_unshuffle.default": (
        {"self": ..., "downscale_factor": ...},
        lambda r, y, v: r.reading.downsample(y, v["self"], v["downscale_factor"]),
    ),
    "aten.relu.default": (
        {"self": ...}, lambda r, y, v: r.reading.step(y, "ReLU", [v["self"]])
    ),
    "aten.slice.Tensor": (
        {"self": ..., "dim": 0, "start": None, "end": None, "step": 1}, _slice
    ),
    "aten.sort.default": ({"self": ..., "dim": -1, "descending": False}, _sort),
    "aten.unflatten.int": ({"self": ..., "dim": ..., "sizes": ...}, _unflatten),
}  # fmt: skip
