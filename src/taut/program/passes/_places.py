"""Lists of places one after the other become one."""

from dataclasses import replace

import torch

from taut.program._program import Program
from taut.program.passes._rewriting import rebuilt

__all__ = ["merge_places"]


def merge_places(program: Program) -> Program:
    """Entry i of the places q of the places p of a value is its entry p[q[i]]: copies of copies.

    A list that names each place in its order does nothing, and is left out.
    """
    made, names, nodes = {}, {}, []
    tensors = dict(program.tensors)
    for original in program.nodes:
        node = replace(original, inputs=tuple(names.get(n, n) for n in original.inputs))
        before = made.get(node.inputs[0]) if node.inputs else None
        if (
            node.op == "take"
            and before is not None
            and before.op == "take"
            and node.args == before.args
        ):
            places = tensors[before.tensors["index"]][tensors[node.tensors["index"]]]
            key = f"{node.name}.index"
            tensors[key] = places
            node = replace(node, inputs=before.inputs, tensors={"index": key})
            size = program.shapes[before.inputs[0]][node.args["axis"]]
            if torch.equal(places.cpu(), torch.arange(size, device="cpu")):
                names[node.name] = before.inputs[0]
        made[node.name] = node
        nodes.append(node)
    output = names.get(program.output, program.output)
    return rebuilt(replace(program, tensors=tensors, output=output), nodes)
