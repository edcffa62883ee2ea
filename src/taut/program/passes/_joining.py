"""Parts of one value, side by side again, become a list of places."""

from dataclasses import replace

import torch

from taut.program._program import Node, Program, Shape
from taut.program.passes._rewriting import rebuilt

__all__ = ["join_parts"]


def join_parts(program: Program) -> Program:
    r"""Slices of one axis of a value, joined along that axis, are copies of its entries.

    Entry i of the result is entry p[i] of the value along the axis, where p holds the places of the
    slices one after the other. The norm is the root of how often the most copied entry comes; the
    plain rules take the parts for independent, and add all their squares. A list that names each
    place in its order does nothing, and is left out.
    """
    made, shapes = {node.name: node for node in program.nodes}, program.shapes
    names, nodes, tensors = {}, [], dict(program.tensors)
    for original in program.nodes:
        node = replace(original, inputs=tuple(names.get(n, n) for n in original.inputs))
        known = _places(original, made, shapes)
        if known is not None:
            base, places = known
            axis, key = node.args["axis"], f"{node.name}.index"
            if places == list(range(shapes[base][axis])):
                names[node.name] = names.get(base, base)
            tensors[key] = torch.tensor(places, device="cpu")
            inputs, args = (names.get(base, base),), {"axis": axis}
            node = replace(node, op="take", inputs=inputs, args=args, tensors={"index": key})
        nodes.append(node)
    output = names.get(program.output, program.output)
    return rebuilt(replace(program, tensors=tensors, output=output), nodes)


def _places(
    node: Node, made: dict[str, Node], shapes: dict[str, Shape]
) -> tuple[str, list[int]] | None:
    """The value and the places that a concatenation is, if all its parts are of one value."""
    if node.op != "concat" or node.tensors:
        return None
    axis, parts = node.args["axis"], [node.inputs[part] for part in node.args["parts"]]
    cuts = [made[name] for name in parts if name in made and made[name].op == "slice"]
    cuts = [cut for cut in cuts if cut.args["axis"] == axis]
    bases = {cut.inputs[0] for cut in cuts}
    if len(bases) != 1:
        return None
    (base,) = bases
    by_name = {cut.name: range(*(cut.args[k] for k in ("start", "stop", "step"))) for cut in cuts}
    by_name.setdefault(base, range(shapes[base][axis]))
    if not set(parts) <= by_name.keys():
        return None
    return base, [place for name in parts for place in by_name[name]]
