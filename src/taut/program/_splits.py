r"""Values made of parts of another value, each a function of a slice of its own, side by side.

For :math:`y = (f_1(x_1), f_2(x_2))` with slices :math:`x_i` of x that do not meet,
:math:`|y - y'|^2 \le \sum_i L_i^2 |x_i - x_i'|^2 \le \max_i L_i^2 |x - x'|^2`. Rows one by one come
to the root of the sum of squares, as they do not know that the slices are of one value.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, final

from taut.program._compose import Layer, compose
from taut.program._program import Node, Program

__all__ = ["Branch", "Split", "branch_program", "split_gain", "split_of"]


@final
class Branch(NamedTuple):
    """A part: the slice that it reads, all that it is made of behind that, and its name."""

    cut: str
    inside: frozenset[str]
    name: str


@final
class Split(NamedTuple):
    """The value that is cut into slices, and what is made of each."""

    source: str
    branches: tuple[Branch, ...]


def split_of(program: Program, name: str) -> Split | None:
    """The value whose parts another is made of; None for a value that is no such join."""
    nodes = {node.name: node for node in program.nodes}
    node = nodes[name]
    if node.op != "concat" or node.tensors:
        return None
    parts = [node.inputs[part] for part in node.args["parts"]]
    slices = [nodes[part] for part in parts if part in nodes and nodes[part].op == "slice"]
    for source in dict.fromkeys(cut.inputs[0] for cut in slices):
        found = [_branch(nodes, part, source) for part in parts]
        branches = [branch for branch in found if branch is not None]
        if len(branches) == len(parts) and _are_apart(program, [nodes[b.cut] for b in branches]):
            return Split(source, tuple(branches))
    return None


def _branch(nodes: Mapping[str, Node], name: str, source: str) -> Branch | None:
    """The slice of a value through which alone another depends on the input, if there is one."""
    cuts, inside, open_ = set(), set(), [name]
    while open_:
        at = open_.pop()
        node = nodes.get(at)
        if node is None or at == source:
            return None
        if node.op == "slice" and node.inputs == (source,):
            cuts.add(at)
        elif at not in inside:
            inside.add(at)
            open_ += node.inputs
    return Branch(cuts.pop(), frozenset(inside), name) if len(cuts) == 1 else None


def _are_apart(program: Program, cuts: list[Node]) -> bool:
    """Whether slices are of one axis, and do not meet."""
    places: set[int] = set()
    for cut in cuts:
        size = program.shapes[cut.inputs[0]][cut.args["axis"]]
        own = set(range(size)[slice(*(cut.args[key] for key in ("start", "stop", "step")))])
        if cut.args["axis"] != cuts[0].args["axis"] or places & own:
            return False
        places |= own
    return True


def branch_program(program: Program, branch: Branch) -> Program | None:
    """What is done to a slice, as a program of its own; None if it stays as it is."""
    if not branch.inside:
        return None
    nodes = tuple(node for node in program.nodes if node.name in branch.inside)
    shape = program.shapes[branch.cut]
    return replace(program, nodes=nodes, input_shape=shape, source=branch.cut, output=branch.name)


def split_gain(
    program: Program,
    split: Split,
    layers: Mapping[str, Layer],
    folds: Mapping[str, tuple[str, float]],
) -> float:
    """The largest Lipschitz constant of a branch in its slice, at least 1 where one is a slice.

    Args:
        program: of a model.
        split: in the program.
        layers: the rows of the program, by name.
        folds: what is known of values inside of the branches.
    """
    gains = []
    for branch in split.branches:
        part = branch_program(program, branch)
        if part is None:
            gains.append(1.0)
            continue
        rows = [layers[node.name] for node in part.nodes]
        known = {name: fold for name, fold in folds.items() if name in branch.inside}
        gains.append(compose(rows, part.source, part.output, "real", known).lipschitz)
    return max(gains)
