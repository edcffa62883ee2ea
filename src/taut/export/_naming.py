"""Names of operations and tensors that are names in Python and in every file format."""

import itertools
from dataclasses import replace

from taut.program import Node, Program

__all__ = ["LAYERS", "renamed"]

LAYERS = ("linear", "conv", "conv_transpose", "batch_norm")
"""Operations that are layers of torch in Python files; all others are expressions."""


def renamed(program: Program) -> Program:
    """The program with names that any file keeps: after the tensors of a layer, else counted."""
    tensors = _tensor_names(program)
    names, taken = {program.source: "input"}, {"input"}
    for node in program.nodes:
        names[node.name] = _name(node, tensors, taken)
        taken.add(names[node.name])
    nodes = tuple(
        replace(
            node,
            name=names[node.name],
            path="",
            inputs=tuple(names[n] for n in node.inputs),
            tensors={role: tensors[n] for role, n in node.tensors.items()},
        )
        for node in program.nodes
    )
    held = {tensors[name]: tensor for name, tensor in program.tensors.items()}
    modules = {names[name]: module for name, module in program.modules.items()}
    return replace(
        program,
        nodes=nodes,
        tensors=held,
        source="input",
        output=names[program.output],
        modules=modules,
    )


def _tensor_names(program: Program) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in program.tensors:
        stem, _, last = name.rpartition(".")
        options = itertools.chain([""], (f"_{i}" for i in itertools.count(1)))
        names[name] = next(
            n for n in (f"{_prefix(stem)}{o}.{last}" for o in options) if n not in names.values()
        )
    return names


def _prefix(path: str) -> str:
    """What the tensors of a module are called after, as a Python name."""
    name = path.replace(".", "_")
    return name if name.isidentifier() and not name.startswith("_") else f"layer{name.strip('_')}"


def _name(node: Node, tensors: dict[str, str], taken: set[str]) -> str:
    if node.op in LAYERS and "weight" in node.tensors:
        stem = tensors[node.tensors["weight"]].rpartition(".")[0]
        options = (stem if count == 1 else f"{stem}_{count}" for count in itertools.count(1))
    else:
        options = (f"{node.op.lower()}{count}" for count in itertools.count(1))
    return next(name for name in options if name not in taken)
