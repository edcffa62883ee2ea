"""Sound passes over programs: equal functions, sharper bounds; proofs in the docstrings."""

from collections.abc import Sequence

from taut.program._program import Program
from taut.program.passes._activations import recognise_activations
from taut.program.passes._exponentials import recognise_exponentials
from taut.program.passes._functions import recognise_functions
from taut.program.passes._joining import join_parts
from taut.program.passes._padding import merge_pads, recognise_isometric_pads
from taut.program.passes._places import merge_places
from taut.program.passes._residuals import recognise_residuals
from taut.program.passes._sorting import recognise_sorting
from taut.program.passes._units import drop_unit_axes
from taut.program.passes._wrapping import merge_wraps

__all__ = ["PASSES", "REWRITINGS", "changes", "pass_names", "rewritten"]

REWRITINGS = {
    rewrite.__name__: rewrite
    for rewrite in (
        recognise_activations,
        recognise_functions,
        drop_unit_axes,
        join_parts,
        merge_places,
        recognise_isometric_pads,
        merge_pads,
        merge_wraps,
        recognise_sorting,
        recognise_exponentials,
        recognise_residuals,
    )
}
"""Passes that rewrite the program, in their order; certificates are about the result."""

PASSES = (*REWRITINGS, "compose_affine", "follow_parts")
"""All passes by name; the last two are ways to bound a program that stays the same."""


def pass_names(passes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of passes in their order; None means all.

    Raises:
        ValueError: if there is no such pass.
    """
    chosen = PASSES if passes is None else passes
    unknown = [name for name in chosen if name not in PASSES] if not isinstance(chosen, str) else []
    if isinstance(chosen, str) or unknown:
        got = repr(chosen) if isinstance(chosen, str) else repr(unknown[0])
        raise ValueError(f"`passes` must be a sequence of {', '.join(PASSES)}; got {got}.")
    return tuple(name for name in PASSES if name in chosen)


def rewritten(program: Program, names: Sequence[str] = PASSES) -> Program:
    """The program after the rewriting passes, in their order."""
    for name, rewrite in REWRITINGS.items():
        program = rewrite(program) if name in names else program
    return program


def changes(program: Program, names: Sequence[str]) -> list[str]:
    """Those of the rewriting passes that change a program, each behind those before it."""
    changed = []
    for name, rewrite in REWRITINGS.items():
        before, program = program, rewrite(program) if name in names else program
        changed += [name] if program.content() != before.content() else []
    return changed
