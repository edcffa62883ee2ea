"""A model as a certificate sees it: a graph in plain values, plain weights, and rows."""

import inspect
import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from taut.certification._float64 import Float64
from taut.certification._layers import Layer
from taut.lipschitz import (
    Affine,
    Join,
    LipschitzBound,
    UnprovenError,
    join_of,
    trace,
)

__all__ = ["Node", "Program", "place", "plain_operator", "program_of"]

Node = dict[str, Any]


@final
@dataclass(frozen=True, eq=False)
class Program:
    """A model, written down.

    Attributes:
        nodes: the graph as plain values: names, types, the arguments that matter, and which tensors
            are used where. Equal programs have equal nodes.
        tensors: the exported weights by their plain names, in the precision they are used in.
        layers: one row for each node that depends on the input.
        source: name of the node that is the input.
        output: name of the node that is returned.
        run: the float64 execution of the exported weights.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> bound = taut.lipschitz_bound(model, (2,))
        >>> sorted(program_of(model, (2,), bound, real=False).tensors)
        ['0.bias', '0.weight']
    """

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    layers: tuple[Layer, ...]
    source: str
    output: str
    run: Float64


def program_of(
    model: nn.Module, shape: tuple[int, ...], bound: LipschitzBound, *, real: bool
) -> Program:
    """Write down a model that `lipschitz_bound` accepted.

    Args:
        model: in eval mode where that matters.
        shape: of one input.
        bound: of the model, from `verifiable_bound`: its rows are not proven again.
        real: whether layers need no rule for their rounding.

    Raises:
        UnprovenError: naming the layer whose rounding has no bound; or if the operators that the
            rules give are not what the model computes.
    """
    graph = trace(model)
    run = Float64(graph, lenient=real)
    like = next(iter(model.parameters()), torch.zeros(()))
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    run.garbage_collect_values = False
    with torch.no_grad():
        _compare(model(x.clone().to(like)), run.run(place(x, like)))
    wrapped = dict(graph.named_children()).get("model") is model
    export = _Export(graph, run, bound, "model." if wrapped else "")
    for node in graph.graph.nodes:
        export.add(node)
    run.env.clear()
    run.garbage_collect_values = True
    return Program(
        tuple(export.nodes),
        dict(sorted(export.tensors.items())),
        tuple(export.layers),
        export.source,
        export.output,
        run,
    )


def place(x: Tensor, like: Tensor) -> Tensor:
    """The batch in float64 on the device of the model, or on the CPU where that has no float64.

    Example:
        >>> place(torch.ones(1), torch.ones(1)).dtype
        torch.float64
    """
    return x.to("cpu" if like.device.type == "mps" else like.device, torch.float64)


def _compare(expected: Tensor, result: Tensor) -> None:
    """Refuse rules that describe another operator than the forward is."""
    tolerance = max(1e-6, 2e4 * torch.finfo(expected.dtype).eps)
    expected = expected.to(result)
    largest = expected.abs().nan_to_num(0.0, 0.0).max().item()
    if not torch.allclose(result, expected, tolerance, tolerance * largest, equal_nan=True):
        raise UnprovenError(
            "The float64 execution of the exported weights is far from what the model computes: "
            "the rule of a layer gives another operator than its forward, or float32 breaks down."
        )


@final
class _Export:
    """Writes down one node after the other, from the values of one run."""

    def __init__(
        self, graph: fx.GraphModule, run: Float64, bound: LipschitzBound, prefix: str
    ) -> None:
        self.graph, self.run, self.prefix = graph, run, prefix
        self.proven = iter(bound.layers)
        self.nodes: list[Node] = []
        self.layers: list[Layer] = []
        self.tensors: dict[str, Tensor] = {}
        self.signals: set[fx.Node] = set()
        self.source = self.output = ""

    def add(self, n: fx.Node) -> None:
        if n.op == "output":
            self.output = n.all_input_nodes[0].name
            return
        value = self.run.env[n]
        inputs = tuple(i for i in n.all_input_nodes if i in self.signals)
        node: Node = {"name": n.name, "op": n.op, "inputs": [i.name for i in n.all_input_nodes]}
        node["shape"] = [list(part.shape[1:]) for part in _tensors(value)]
        if n.op == "placeholder":
            self.source = n.name
        elif n.op == "get_attr":
            node["tensor"] = self._keep(str(n.target), _attribute(self.graph, str(n.target)))
        elif n.op == "call_module":
            self._describe_module(n, node)
        else:
            node["type"] = _name(n.target)
            node["args"] = [_plain(n.args), _plain(n.kwargs)]
        self.nodes.append(node)
        if (inputs or n.op == "placeholder") and _tensors(value):
            self.signals.add(n)
        if inputs and _tensors(value):
            self.layers.append(self._layer(n, inputs))
        elif n.op.startswith("call") and _tensors(value) and not self.run.lenient:
            raise UnprovenError(
                f"`{n.name}` computes a constant in the forward, which rounds in its own way; "
                "make it a buffer."
            )

    def _describe_module(self, n: fx.Node, node: Node) -> None:
        module, rule = self.run.submodules[str(n.target)], self.run.rules[n.name]
        node["type"] = _kind(module)
        name = f"{n.target}.".removeprefix(self.prefix)
        if isinstance(rule, Affine):
            node["op"] = "adjoint" if rule.adjoint else "affine"
            node["operator"] = plain_operator(rule)
            node["weight"] = self._keep(name + "weight", rule.weight)
            node["bias"] = None if rule.bias is None else self._keep(name + "bias", rule.bias)
            return
        node["args"] = _arguments(module)
        held = [*module.named_parameters(), *module.named_buffers()]
        node["tensors"] = {
            key: self._keep(name + key, t) for key, t in held if t.is_floating_point()
        }

    def _layer(self, n: fx.Node, inputs: tuple[fx.Node, ...]) -> Layer:
        read = sum(_size(self.run.env[i]) for i in inputs)
        written = _size(self.run.env[n])
        if n.op == "call_module":
            module = self.run.submodules[str(n.target)]
            proven = (str(n.target), type(module).__name__)
            kind, row = _kind(module), next(r for r in self.proven if (r.name, r.type) == proven)
            combine, gains, proof = "sum", (row.bound,), row.proof
            rounding = self.run.rules[n.name]
            if isinstance(rounding, Affine):
                rounding = rounding.rounding(read)
        else:
            join = self._join(n, inputs)
            kind, proof = _name(n.target), f"rule of `{_name(n.target)}`"
            combine, gains, rounding = join.combine, join.gains, join.rounding
        names = tuple(i.name for i in inputs)
        layer = Layer(n.name, kind, names, gains, proof, combine, entries=(read, written))
        return layer.rounded(None if self.run.lenient else rounding)

    def _join(self, n: fx.Node, inputs: tuple[fx.Node, ...]) -> Join:
        try:
            return join_of(n, self.run.env, inputs, real=self.run.lenient)
        except UnprovenError as error:
            raise UnprovenError(f"`{n.name}` cannot be certified: {error}.") from error

    def _keep(self, name: str, tensor: Tensor) -> str:
        if not bool(tensor.isfinite().all()):
            raise UnprovenError(f"`{name}` holds NaN or Inf.")
        self.tensors[name] = tensor.detach()
        return name


def plain_operator(layer: Affine) -> Node:
    """What decides an operator, but for its weight, as plain values.

    Example:
        >>> from taut.lipschitz import ConvOperator
        >>> weight = torch.ones(1, 1, 3)
        >>> plain_operator(Affine(ConvOperator(weight, (8,)), weight, None))["stride"]
        [1]
    """
    op, pad = layer.op, layer.op.padding
    return {
        "input_size": list(op.input_size),
        "stride": list(op.stride),
        "dilation": list(op.dilation),
        "groups": op.groups,
        "padding": pad.mode,
        "left": list(pad.left),
        "right": list(pad.right),
        "extend": list(pad.extend),
    }


def _kind(module: nn.Module) -> str:
    """Name of the type; a class from elsewhere never goes by a name of torch or taut."""
    kind = type(module)
    known = kind.__module__.partition(".")[0] in ("torch", "taut")
    return kind.__name__ if known else f"custom.{kind.__name__}"


def _arguments(module: nn.Module) -> Node:
    """The arguments of the constructor that the module keeps under their names."""
    names = inspect.signature(type(module)).parameters
    kept = vars(module)
    return {name: _plain(kept[name]) for name in names if name in kept}


def _plain(value: Any) -> Any:
    """Arguments as JSON can hold them; equal text for equal arguments."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, slice):
        return {"slice": [_plain(value.start), _plain(value.stop), _plain(value.step)]}
    finite = isinstance(value, float) and math.isfinite(value)
    return value if value is None or finite or isinstance(value, bool | int | str) else repr(value)


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _attribute(graph: fx.GraphModule, path: str) -> Tensor:
    *modules, last = path.split(".")
    return getattr(graph.get_submodule(".".join(modules)), last)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple | list) else ()
    return [part for part in parts if isinstance(part, Tensor)]


def _size(value: Any) -> int:
    return sum(part[0].numel() for part in _tensors(value))
