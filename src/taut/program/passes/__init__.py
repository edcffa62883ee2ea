"""Sound rewritings of programs: equal functions, sharper bounds; proofs in the docstrings."""

from taut.program._program import Program
from taut.program.passes._padding import merge_pads
from taut.program.passes._parts import join_parts
from taut.program.passes._places import merge_places
from taut.program.passes._sorting import recognise_sorting
from taut.program.passes._wrapping import merge_wraps

__all__ = [
    "PASSES",
    "join_parts",
    "merge_pads",
    "merge_places",
    "merge_wraps",
    "recognise_sorting",
    "rewritten",
]

PASSES = (join_parts, merge_places, merge_pads, merge_wraps, recognise_sorting)


def rewritten(program: Program) -> Program:
    """The program after all passes, in their order."""
    for rewrite in PASSES:
        program = rewrite(program)
    return program
