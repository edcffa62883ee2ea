"""The rows of a graph in plain values, proven from its weights alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taut.certification._layers import Layer
from taut.certification._program import Node
from taut.linalg.bounds import conv_norm_bound
from taut.lipschitz import Affine, ConvOperator, Padding, UnprovenError, rounding_of, rule_of
from taut.nn import GroupSort, InvertibleDownsample2d, MaxMin, PadToMultiple2d

__all__ = ["replay"]

KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.Flatten, nn.PixelShuffle,
        nn.PixelUnshuffle, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
        nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.ZeroPad2d,
        nn.CircularPad2d, GroupSort, InvertibleDownsample2d, MaxMin, PadToMultiple2d,
    )
}  # fmt: skip
"""Module types that their arguments and tensors make again."""


def replay(
    graph: Node, shape: tuple[int, ...], tensors: Mapping[str, Tensor], *, real: bool
) -> list[Layer]:
    """Prove each row of a graph of known layers.

    Args:
        graph: as in a certificate.
        shape: of one input.
        tensors: exported weights by name.
        real: whether rows have no rounding.

    Raises:
        UnprovenError: if a node is of a kind that only the model itself can answer for.
        ValueError: if the shapes of the graph are not what its layers make.

    Example:
        >>> nodes = [{"name": "x", "op": "placeholder", "inputs": [], "shape": [[3]]},
        ...          {"name": "a", "op": "call_module", "type": "ReLU", "args": {"inplace": False},
        ...           "inputs": ["x"], "tensors": {}, "shape": [[3]]}]
        >>> replay({"nodes": nodes, "input": "x"}, (3,), {}, real=False)[0].bound
        1.0
    """
    values: dict[str, Tensor] = {}
    layers = []
    for place, node in enumerate(graph["nodes"]):
        if node["name"] in values or (node["op"] == "placeholder") != (place == 0):
            raise ValueError(f"`{node['name']}` is there twice, or a second input.")
        if node["op"] == "placeholder":
            values[node["name"]] = torch.zeros(2, *shape, dtype=torch.float64)
        else:
            (source,) = node["inputs"] if len(node["inputs"]) == 1 else (None,)
            if node["op"] not in ("affine", "adjoint", "call_module") or source is None:
                raise UnprovenError(
                    f"`{node['name']}` cannot be proven without the model; pass it."
                )
            layer, values[node["name"]] = _replay(node, values[source], tensors, real)
            layers.append(layer)
        if [list(values[node["name"]].shape[1:])] != node["shape"]:
            raise ValueError(f"`{node['name']}` has another shape than the graph says.")
    if graph["input"] != graph["nodes"][0]["name"]:
        raise ValueError("The input of the graph is not its first node.")
    return layers


def _replay(
    node: Node, x: Tensor, tensors: Mapping[str, Tensor], real: bool
) -> tuple[Layer, Tensor]:
    if node["op"] in ("affine", "adjoint"):
        rule = _affine(node, tensors)
        size = rule.op.output_size if rule.adjoint else rule.op.input_size
        if size not in ((), tuple(x.shape[2:])):
            raise ValueError(f"`{node['name']}` is proven for another input size.")
        bound, y = conv_norm_bound(rule.op), rule(x)
        rounding = rule.rounding(x[0].numel())
    else:
        module, shape = _module(node, tensors), tuple(x.shape[1:])
        bound = rule_of(module, node["name"])(module, shape)
        found = None if real else rounding_of(module, shape)
        rounding = None if isinstance(found, Affine) else found
        with torch.no_grad():
            y = module.double()(x)
    entries = (x[0].numel(), y[0].numel())
    names = (node["name"], node["type"], (node["inputs"][0],))
    layer = Layer(*names, (bound.value,), bound.proof, entries=entries)
    return layer.rounded(None if real else rounding), y


def _affine(node: Node, tensors: Mapping[str, Tensor]) -> Affine:
    plain = node["operator"]
    sides = (tuple(plain[side]) for side in ("left", "right", "extend"))
    op = ConvOperator(
        tensors[node["weight"]],
        tuple(plain["input_size"]),
        tuple(plain["stride"]),
        tuple(plain["dilation"]),
        plain["groups"],
        Padding(plain["padding"], *sides),
    )
    bias = None if node["bias"] is None else tensors[node["bias"]]
    return Affine(op, tensors[node["weight"]], bias, node["op"] == "adjoint")


def _module(node: Node, tensors: Mapping[str, Tensor]) -> nn.Module:
    if node["type"] not in KINDS:
        raise UnprovenError(f"`{node['name']}` is a {node['type']}; pass the model to prove it.")
    args: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in node["args"].items()
    }
    module = KINDS[node["type"]](**args).eval()
    for key, name in node["tensors"].items():
        # The tensors as they are, in their own precision: a cast could move a bound.
        place = getattr(module, key)
        kept = (
            nn.Parameter(tensors[name], False) if isinstance(place, nn.Parameter) else tensors[name]
        )
        setattr(module, key, kept)
    return module
