"""What rewritings have in common."""

from collections.abc import Iterable
from dataclasses import replace

from taut.program._program import Node, Program

__all__ = ["readers", "rebuilt"]


def readers(program: Program) -> dict[str, list[Node]]:
    """The nodes that read each value; the output is read by nobody."""
    found: dict[str, list[Node]] = {}
    for node in program.nodes:
        for name in node.inputs:
            found.setdefault(name, []).append(node)
    return found


def rebuilt(program: Program, nodes: Iterable[Node]) -> Program:
    """The program of other nodes, without those and the tensors that nothing needs any more."""
    needed, kept = {program.output}, []
    for node in reversed(list(nodes)):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    kept.reverse()
    used = {name for node in kept for name in node.tensors.values()}
    tensors = {name: t for name, t in program.tensors.items() if name in used}
    modules = {
        node.name: program.modules[node.name] for node in kept if node.name in program.modules
    }
    return replace(program, nodes=tuple(kept), tensors=tensors, modules=modules)
