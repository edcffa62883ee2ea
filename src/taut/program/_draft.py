"""A program while it is recorded: nodes without names yet, and the tensors that they hold."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from taut.program._places import Layer
from taut.program._program import Node, Program, Shape
from taut.program._result import UnprovenError

__all__ = ["INPUT", "Draft", "Made"]

INPUT = "input"
"""The name of the input in a recorded program."""


@final
@dataclass(frozen=True)
class _Unnamed:
    """A node before it has its name; its inputs are numbers of nodes."""

    op: str
    inputs: tuple[str, ...]
    shape: Shape
    args: Mapping[str, Any]
    tensors: Mapping[str, str]
    layer: Layer
    module: nn.Module | None = None


@final
@dataclass(frozen=True)
class Made:
    """How a value of a draft was made: the operation, names of its inputs, arguments, tensors."""

    op: str
    inputs: tuple[str, ...]
    args: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@final
class Draft:
    """Takes nodes in the order of their calls.

    Attributes:
        named: names of the model's tensors, by identity.
        shapes: of one sample of each value, by its name in the draft; "" is the input.
    """

    def __init__(self, model: nn.Module, shape: Shape) -> None:
        tensors = itertools.chain(model.named_parameters(), model.named_buffers())
        self.named = {id(tensor): name for name, tensor in tensors}
        self.shapes: dict[str, Shape] = {"": shape}
        self._nodes: list[_Unnamed] = []
        self._tensors: dict[str, Tensor] = {}
        self._copies: dict[int, tuple[str, Tensor]] = {}  # the tensor keeps its identity its own

    def add(
        self,
        op: str,
        inputs: tuple[str, ...],
        shape: Shape,
        args: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        layer: Layer,
        module: nn.Module | None = None,
    ) -> str:
        """Add a node; returns a name of the draft."""
        held = {role: self._keep(tensor, role, layer) for role, tensor in tensors.items()}
        name = f"%{len(self._nodes)}"
        self._nodes.append(_Unnamed(op, inputs, shape, args, held, layer, module))
        self.shapes[name] = shape
        return name

    def _keep(self, tensor: Tensor, role: str, layer: Layer) -> str:
        """A copy of a tensor, under its name in the model or that of the layer."""
        name = self.named.get(id(tensor)) or self._copies.get(id(tensor), (None,))[0]
        if name is not None and name in self._tensors:
            return name
        stem = f"{layer.path}.{role}" if layer.path else role
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UnprovenError(f"`{name or stem}` holds NaN or Inf")
        if name is None:
            name = _free(stem, {*self._tensors, *self.named.values()})
            self._copies[id(tensor)] = name, tensor
        self._tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        return name

    def made(self, name: str) -> Made | None:
        """What a value was made by; None for the input."""
        if not name:
            return None
        node = self._nodes[int(name.removeprefix("%"))]
        tensors = {role: self._tensors[held] for role, held in node.tensors.items()}
        return Made(node.op, node.inputs, node.args, tensors)

    def program(self, output: str) -> Program:
        """The nodes that an output depends on, under their names."""
        needed = {output}
        for number in reversed(range(len(self._nodes))):
            if f"%{number}" in needed:
                needed.update(self._nodes[number].inputs)
        chosen = [n for n in range(len(self._nodes)) if f"%{n}" in needed]
        names = {"": INPUT} | self._names(chosen)
        nodes, modules = [], {}
        for number in chosen:
            made, name = self._nodes[number], names[f"%{number}"]
            inputs = tuple(names[i] for i in made.inputs)
            where = (made.layer.type or made.op, made.layer.path)
            nodes.append(Node(name, made.op, inputs, made.shape, made.args, made.tensors, *where))
            if made.module is not None:
                modules[name] = copy.deepcopy(made.module)
        used = {t for node in nodes for t in node.tensors.values()}
        tensors = {name: t for name, t in sorted(self._tensors.items()) if name in used}
        return Program(tuple(nodes), tensors, self.shapes[""], names[output], INPUT, modules)

    def _names(self, chosen: list[int]) -> dict[str, str]:
        """The last node of a layer's call is called as the layer, others by their op."""
        taken, names = {INPUT}, {}
        for number, following in itertools.zip_longest(chosen, chosen[1:]):
            made = self._nodes[number]
            layer = made.layer
            after = None if following is None else self._nodes[following].layer
            last = after is None or after.frame is not layer.frame
            stem = layer.path or "model"
            if not (layer.library and last):
                stem = f"{layer.path}.{made.op}".removeprefix(".")
            names[f"%{number}"] = name = _free(stem, taken)
            taken.add(name)
        return names


def _free(stem: str, taken: set[str]) -> str:
    options = itertools.chain([stem], (f"{stem}_{i}" for i in itertools.count(1)))
    return next(option for option in options if option not in taken)
