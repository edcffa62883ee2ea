"""A traced model in plain values: nodes, tensors, canonical JSON."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

from taut.program._result import UnprovenError

__all__ = ["Node", "Program", "Shape", "Site", "canonical", "program_from"]

Shape = tuple[int, ...]

LARGEST = 2**27
"""Numbers that a graph from a file may make of one input, all its values together."""


@final
@dataclass(frozen=True)
class Node:
    """One operation of a program.

    Attributes:
        name: of the operation and of the value that it computes.
        op: kind of the operation, the key of its `AbstractOp`.
        inputs: names of the earlier values that it reads.
        shape: of one sample of its value.
        args: everything else that decides what it computes, as JSON holds it.
        tensors: names of the tensors that it reads, by their role.
        type: what a table shows: the class of the layer, or the name of the function.
        path: where in the model the layer stands; "" for a function of the model itself.

    Example:
        >>> Node("relu", "relu", ("input",), (3,)).args
        {}
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape
    args: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    type: str = ""
    path: str = field(default="", compare=False)

    def content(self) -> dict[str, Any]:
        """The node as plain values."""
        return {
            "name": self.name,
            "op": self.op,
            "type": self.type,
            "inputs": list(self.inputs),
            "args": plain(self.args),
            "tensors": dict(self.tensors),
            "shape": list(self.shape),
        }


@final
@dataclass(frozen=True, eq=False)
class Site:
    """A node with its arguments, shapes and tensors.

    Attributes:
        node: the node.
        shapes: of one sample of each input.
        tensors: by their role.
        module: the module, for operations that are modules of a type of their own.
    """

    node: Node
    shapes: tuple[Shape, ...]
    tensors: Mapping[str, Tensor]
    module: nn.Module | None = None

    @property
    def args(self) -> Mapping[str, Any]:
        """Arguments of the node."""
        return self.node.args

    @property
    def shape(self) -> Shape:
        """Shape of one sample of the output."""
        return self.node.shape

    @property
    def entries(self) -> tuple[int, int]:
        """Numbers read and numbers written, for one sample."""
        return sum(map(math.prod, self.shapes)), math.prod(self.shape)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """The graph of a model, from which every proof, file and execution is derived.

    Attributes:
        nodes: each after those that it reads.
        tensors: copies of the weights as they are used, by name, in their own precision.
        input_shape: of one input.
        source: name of the input.
        output: name of the value that is returned.
        modules: by the name of a node, the modules whose types were registered.

    Raises:
        ValueError: if two nodes have one name.

    Example:
        >>> program = taut.program.trace(torch.nn.Linear(2, 3), (2,))
        >>> [(node.op, node.shape) for node in program.nodes], sorted(program.tensors)
        ([('linear', (3,))], ['bias', 'weight'])
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    input_shape: Shape
    output: str
    source: str = "input"
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [self.source, *(node.name for node in self.nodes)]
        if len(set(names)) < len(names):  # all that is known of a value stands under its name
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"`nodes` must have names of their own; got {twice!r} twice.")

    def __repr__(self) -> str:
        sizes = f"{len(self.nodes)} operations, {len(self.tensors)} tensors"
        return f"Program({sizes}, input_shape={self.input_shape})"

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of one sample of each value."""
        return {self.source: self.input_shape} | {node.name: node.shape for node in self.nodes}

    def site(self, node: Node, shapes: Mapping[str, Shape] | None = None) -> Site:
        """A node with its shapes and tensors."""
        shapes = self.shapes if shapes is None else shapes
        tensors = {role: self.tensors[name] for role, name in node.tensors.items()}
        inputs = tuple(shapes[name] for name in node.inputs)
        return Site(node, inputs, tensors, self.modules.get(node.name))

    def sites(self) -> list[Site]:
        """All nodes with their shapes and tensors."""
        shapes = self.shapes
        return [self.site(node, shapes) for node in self.nodes]

    def content(self) -> dict[str, Any]:
        """The graph as plain values, without the numbers of the tensors."""
        nodes = [node.content() for node in self.nodes]
        return {"input": self.source, "nodes": nodes, "output": self.output}

    def sha256(self) -> str:
        """Hash of the graph, of its canonical JSON."""
        return hashlib.sha256(canonical(self.content()).encode()).hexdigest()


def canonical(content: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no NaN; floats as Python writes them, exactly.

    Example:
        >>> canonical({"b": [1.5], "a": None})
        '{"a":null,"b":[1.5]}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """Arguments as JSON holds them; refuses what it cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UnprovenError(f"an argument is {value!r}, which no file can hold")


def program_from(graph: Mapping[str, Any], shape: Shape, tensors: Mapping[str, Tensor]) -> Program:
    """The program that a file writes down."""
    source, known, nodes = graph["input"], {graph["input"]}, []
    entries = math.prod(shape) + sum(math.prod(entry["shape"]) for entry in graph["nodes"])
    if entries > LARGEST:
        raise ValueError(
            f"The graph makes {entries} numbers of one input; at most {LARGEST} are checked."
        )
    for entry in graph["nodes"]:
        missing = [n for n in entry["inputs"] if n not in known]
        missing += [n for n in entry["tensors"].values() if n not in tensors]
        if missing or entry["name"] in known:
            what = f"`{missing[0]}` is read before it is there" if missing else "is there twice"
            raise ValueError(f"`{entry['name']}` cannot be read: {what}.")
        if not all(type(n) is int and n >= 1 for n in (*entry["shape"], *shape)):
            raise ValueError(f"`{entry['name']}` has an invalid shape.")
        known.add(entry["name"])
        nodes.append(
            Node(
                entry["name"], entry["op"], tuple(entry["inputs"]), tuple(entry["shape"]),
                entry["args"], entry["tensors"], entry["type"],
            )
        )  # fmt: skip
    if graph["output"] not in known:
        raise ValueError("The graph returns a value that it does not compute.")
    unread = tensors.keys() - {name for node in nodes for name in node.tensors.values()}
    if unread:
        raise ValueError(f"`{min(unread)}` is a tensor that the graph does not read.")
    return Program(
        tuple(nodes), dict(sorted(tensors.items())), tuple(shape), graph["output"], source
    )
