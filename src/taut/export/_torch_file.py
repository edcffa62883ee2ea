"""Programs of torch.export, written by torch, read as JSON and numbers, never unpickled."""

import io
import json
import math
import operator
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from taut.export._files import FileModel, check_ends, check_precision, resolve_shape
from taut.export._torch_memory import run_step
from taut.files import write_atomically
from taut.program import CAPTURES, Program, ProgramModule
from taut.program.ops._numbers import checked_sizes, open_batch

__all__ = ["model_of_torch", "save_torch"]

_LIMIT = 1 << 34  # no file in the archive is larger
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool,
}  # fmt: skip
_MADE = {"full", "zeros", "ones", "arange", "scalar_tensor"}  # constants of their arguments
_OF_CONSTANTS = {
    "lift_fresh_copy", "full_like", "zeros_like", "ones_like", "sqrt", "rsqrt", "reciprocal",
    "exp", "pow", "eq", "ne", "lt", "le", "gt", "ge", "floor_divide", "remainder", "where",
}  # fmt: skip
"""Without a rule: of the signal, the recorder refuses them."""
_OF_SIZES = {"add", "sub", "mul", "floordiv"}  # of Python's integers
_WRITTEN = {"empty", "copy", "slice_scatter"}  # memory, part by part
_SHAPE = "extra/input_shape"  # where the file leaves sizes open
_SCHEMA = 8  # major version of the JSON
_LEGACY = "data/weights/model.pt"
_KINDS = ("weights", "constants")
_POSITIONAL = 1  # kind of an argument


def save_torch(program: Program, path: Path, *, any_size: bool = False) -> None:
    """Write a program as torch.export saves it; its batch is of any size."""
    whole = [node.name for node in program.nodes if node.op in ("potential_residual", "sandwich")]
    if any_size and whole:
        raise ValueError(f"`{whole[0]}` cannot be exported: it is written for images of one size.")
    from torch._dynamo.exc import UserError  # slow to import

    dims: dict[int, Any] = {0: torch.export.Dim("batch")}
    sizes = list(program.input_shape)
    if any_size:
        for axis, name in enumerate(("height", "width")):
            multiple, least = _multiple(program, axis), _least(program)
            dims[axis + 2] = multiple * torch.export.Dim(name, min=least)
            sizes[axis + 1] = multiple * max(least + 1, math.ceil(sizes[axis + 1] / multiple))
    dtype = next((t.dtype for t in program.tensors.values()), torch.float32)
    model, x = ProgramModule(program), torch.zeros(2, *sizes, dtype=dtype, device="cpu")
    try:
        exported = torch.export.export(model, (x,), dynamic_shapes=(dims,), strict=False)
    except (UserError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The model cannot be exported for open sizes ({reason}).") from error
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which nobody needs
    buffer = io.BytesIO()
    shape = {"input_shape": ",".join(map(str, program.input_shape))}
    torch.export.save(exported, buffer, extra_files=shape)
    write_atomically(path, buffer.getvalue())


def _multiple(program: Program, axis: int) -> int:
    """All strides along an axis together: sizes that they divide need no padding."""
    product = 1
    for node in program.nodes:
        if node.args.get("whole"):
            continue  # a pool over everything
        steps = node.args.get(
            "stride", node.args.get("factor", 1) if node.op == "pixel_unshuffle" else 1
        )
        product *= steps[axis] if isinstance(steps, list) else steps
    return product


def _least(program: Program) -> int:
    """The least size of an image behind all strides: reflections take less than an image."""
    mirrors = [node.args["padding"] for node in program.nodes if node.args.get("mode") == "reflect"
               and node.op.startswith("IsometricPad")]  # fmt: skip
    return max([2, *(1 + max(padding) for padding in mirrors)])


def model_of_torch(
    path: Path, input_shape: tuple[int, ...] | None = None
) -> tuple[FileModel, tuple[int, ...]]:
    """A file of torch.export as a model, and the shape of one input."""
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
            kinds = [kind for kind in _KINDS if _config(kind) in files or kind == "weights"]
            tensors = {kind: _tensors(archive, files, kind) for kind in kinds}
            read = TorchModel(model["graph_module"], tensors)
            return read, resolve_shape(read.sizes, input_shape)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError | ValueError):
            raise
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
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
    known: dict[str, Any] = {}
    for name, value in pairs:
        if name in known:
            raise ValueError(f"it holds {name} twice")
        known[name] = value
    return known


def _content(archive: zipfile.ZipFile, files: Mapping[str, str], name: str) -> bytes:
    if name not in files:
        raise ValueError(f"it holds no {name}")
    if archive.getinfo(files[name]).file_size > _LIMIT:
        raise ValueError(f"{name} is too large")
    return archive.read(files[name])


def _config(kind: str) -> str:
    return f"data/{kind}/model_{kind}_config.json"


def _tensors(archive: zipfile.ZipFile, files: Mapping[str, str], kind: str) -> dict[str, Tensor]:
    """Weights or constants by their names."""
    tensors, numbers = {}, {}
    content = _content(archive, files, _config(kind))
    for name, entry in json.loads(content, object_pairs_hook=_once)["config"].items():
        meta = entry["tensor_meta"]
        if meta is None:  # an object of some other kind
            continue
        if not entry["use_pickle"] and numbers.setdefault(entry["path_name"], meta) != meta:
            raise ValueError(f"the numbers of {name} are also those of another shape")
        if entry["use_pickle"] or meta["dtype"] not in _DTYPES:
            continue  # of a step that needs it, it is missed by name
        shape = [size["as_int"] for size in meta["sizes"]]
        if any(n < 0 for n in shape):
            raise ValueError(f"{name} has a size below 0")
        strides = [stride["as_int"] for stride in meta["strides"]]
        plain = torch.empty(shape, device="meta")
        if meta["storage_offset"]["as_int"] or strides != list(plain.stride()):
            raise ValueError(f"the numbers of {name} are not in their order")
        data = _content(archive, files, f"data/{kind}/{entry['path_name']}")
        dtype = _DTYPES[meta["dtype"]]
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has not as many numbers as its shape")
        numbers_read = (
            torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, device="cpu")
        )
        tensors[name] = numbers_read.to(dtype).reshape(shape)
    return tensors


def _ends(
    graph: Mapping[str, Any], signature: Mapping[str, Any]
) -> tuple[str, str, dict[str, tuple[str, str]]]:
    """Names of the input and of the output; kinds and names of tensors by names in the graph."""
    inputs, held = [], {}
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        name = content["arg"].get("name") or content["arg"]["as_tensor"]["name"]
        inputs.append(name)
        if kind in ("parameter", "buffer", "tensor_constant"):
            apart = kind == "tensor_constant" or not content.get("persistent", True)
            held[name] = (_KINDS[apart], content[f"{kind}_name"])
        elif kind != "user_input":
            raise ValueError(f"it has an input of the kind {kind}")
    sources = [name for name in inputs if name not in held]
    results = []
    for spec in signature["output_specs"]:
        ((kind, content),) = spec.items()
        if kind != "user_output":
            raise ValueError("it must write to no buffer")
        results.append(content["arg"]["as_tensor"]["name"])
    check_ends(sources, results)
    (result,) = results
    # torch runs from the ends that the graph has, and takes its weights by their places.
    for ends, said in ((graph["inputs"], inputs), (graph["outputs"], [result])):
        if [end["as_tensor"]["name"] for end in ends] != said or len(set(said)) != len(said):
            raise ValueError("its graph has other inputs or outputs than its signature")
    return sources[0], result, held


@final
class TorchModel(FileModel):
    """A model that runs the nodes of an exported graph, of operations that are known."""

    def __init__(
        self, module: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        graph = module["graph"]
        source, output, held = _ends(graph, module["signature"])
        input_meta = graph["tensor_values"][source]
        dtype = check_precision(_DTYPES.get(input_meta["dtype"]))
        named = dict.fromkeys(held.values())
        known = {(k, n): tensors[k][n] for k, n in named if n in tensors.get(k, {})}
        used = {tensor.dtype for tensor in known.values()}
        if {t for t in used if t.is_floating_point} - {dtype}:
            raise ValueError("its tensors must be of one precision, that of its input")
        super().__init__(dtype)
        self.source, self.output = source, output
        self.held = {name: "/".join(key) for name, key in held.items()}
        self.batch, *self.sizes = [size.get("as_int") for size in input_meta["sizes"]]
        self.any_size = None in self.sizes
        for (kind, name), tensor in known.items():
            self.hold(name, tensor, f"{kind}/{name}")
        self.steps = [_step(node) for node in graph["nodes"]]

    def forward(self, x: Tensor) -> Tensor:
        """Run node after node."""
        kept = self.tensors()
        values: dict[str, Any] = {self.source: x}
        values |= {name: kept[held] for name, held in self.held.items() if held in kept}
        moving = {self.source}
        for where, function, args, kwargs, outputs in self.steps:
            taken = [n for n in outputs if n in values]
            if taken:
                raise ValueError(f"{where}: `{taken[0]}` is made twice")
            try:
                chosen = [self._value(arg, values) for arg in args]
                named = {name: self._value(arg, values) for name, arg in kwargs.items()}
                moves = not moving.isdisjoint(_names(args))
                if moves and function in _SHAPING and isinstance(chosen[0], Tensor):
                    chosen[1] = open_batch(chosen[0], chosen[1], self.batch)
                made_for = self.batch if moves or not _names(args) else None
                result = run_step(function, chosen, named, made_for)
            except (RuntimeError, ValueError, IndexError) as error:
                raise type(error)(f"{where}: {error}") from None
            results = list(result) if isinstance(result, tuple | list) else [result]
            if not moving.isdisjoint(_names([*args, *kwargs.values()])):
                moving.update(outputs)
            values |= dict(zip(outputs, results, strict=True))
        if self.output not in values:
            raise ValueError(f"`{self.output}` is no value of the graph")
        return values[self.output]

    def _value(self, arg: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        ((kind, value),) = arg.items()
        if kind == "as_tensor":
            return self._named(value["name"], values)
        if kind == "as_tensors":
            return [self._named(part["name"], values) for part in value]
        if kind == "as_optional_tensors":
            return [self._value(part, values) for part in value]
        if kind == "as_none":
            return None
        if kind in _NUMBERS:
            return value
        if kind == "as_scalar_type" and value in _DTYPES:
            return _DTYPES[value]
        if kind in _PLACED:
            return _PLACED[kind]
        if kind == "as_sym_int":
            return values[value["as_name"]] if "as_name" in value else value["as_int"]
        if kind == "as_sym_ints":
            return [values[v["as_name"]] if "as_name" in v else v["as_int"] for v in value]
        raise ValueError(f"an argument is {kind.removeprefix('as_')}")

    def _named(self, name: str, values: Mapping[str, Any]) -> Any:
        if name not in values:
            what = "no plain tensor of the file" if name in self.held else "no value of the graph"
            raise ValueError(f"its {name} is {what}")
        return values[name]


_NUMBERS = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string")
_PLACED = {
    "as_device": torch.device("cpu"), "as_layout": torch.strided,
    "as_memory_format": torch.preserve_format,
}  # fmt: skip
"""Where numbers lie in memory, which changes none of them."""

_SHAPING = {torch.ops.aten.reshape.default, torch.ops.aten.expand.default}
"""Their second argument is a shape, which begins with the batch that the file is for."""

Step = tuple[str, Any, list[Any], dict[str, Any], list[str]]


def _names(args: Iterable[Any]) -> list[str]:
    """Names of the tensors among arguments."""
    names = []
    for arg in args:
        ((kind, value),) = arg.items()
        if kind == "as_tensor":
            names.append(value["name"])
        elif kind == "as_tensors":
            names += [part["name"] for part in value]
        elif kind == "as_optional_tensors":
            names += _names(value)
    return names


def _checked_maker(function: Any) -> Any:
    """A function that makes a constant, after its size was seen."""

    def make(*args: Any, **kwargs: Any) -> Tensor:
        checked_sizes(function(*args, **{**kwargs, "device": "meta"}).shape)
        return function(*args, **kwargs)

    return make


def _step(node: Mapping[str, Any]) -> Step:
    """One node: where it stands, its function, arguments by place and by name, and outputs."""
    target = node["target"].removeprefix("torch.ops.")
    where = f"`{node.get('name') or target}` ({target})"
    space, _, name = target.partition(".")
    name, _, overload = name.partition(".")
    sizes = space == "_operator" and name in _OF_SIZES
    known = name in _MADE | _OF_CONSTANTS | _WRITTEN | {"sym_size"} or f"aten::{name}" in CAPTURES
    if not sizes and (space != "aten" or not known):
        raise ValueError(f"{where} is an operator without a reader")
    function = (
        getattr(operator, name) if sizes else getattr(getattr(torch.ops.aten, name), overload)
    )
    if sizes:
        order = ["a", "b"]
    elif name == "sym_size":
        function = lambda x, dim: x.shape[dim]  # noqa: E731
        order = ["self", "dim"]
    else:
        order = [argument.name for argument in function._schema.arguments]
    if name == "view" and overload != "default":
        raise ValueError(f"{where} reads the bits of numbers as another type")
    if name in _MADE:
        function = _checked_maker(function)
    if name in ("view", "_unsafe_view"):  # of another batch the strides may not allow a view
        function = torch.ops.aten.reshape.default
    values = _once((entry["name"], entry["arg"]) for entry in node["inputs"])
    # Without a name in the call: torch puts them side by side, whatever was left out between.
    placed = {entry["name"] for entry in node["inputs"] if entry["kind"] == _POSITIONAL}
    if set(values) - set(order) or placed != set(order[: len(placed)]):
        raise ValueError(f"{where} has other arguments than were expected")
    args = [values.pop(name) for name in order[: len(placed)]]
    outputs = []
    for out in node["outputs"]:
        ((kind, value),) = out.items()
        parts = value if kind == "as_tensors" else [value]
        outputs += [part.get("name") or part["as_name"] for part in parts]
    return where, function, args, values, outputs
