"""Programs in the operations of the page's interpreter.

Each operation becomes steps that round at most as its proof counts: sums of products in another
order, copies, and the same functions of entries. So the proven rounding error of the float64 run
covers the page, whose numbers are float64, too (docs/playground.md).
"""

import math

from taut.playground import _entries, _linear, _pools
from taut.playground._rules import RULES
from taut.playground._steps import Steps
from taut.program import Program, expanded

__all__ = ["lower", "lowered"]

_FILES = (_entries, _linear, _pools)  # each adds its rules to the table


def lowered() -> tuple[str, ...]:
    """The kinds of operations that the page's interpreter runs.

    Example:
        >>> "conv" in lowered(), "softmax" in lowered()
        (True, False)
    """
    return tuple(sorted(RULES))


def lower(program: Program) -> Steps:
    """A program in the operations of the page.

    Args:
        program: of a model.

    Raises:
        ValueError: if the page's interpreter lacks an operation.

    Example:
        >>> program = taut.program.trace(torch.nn.Linear(2, 3), (2,))
        >>> [step["op"] for step in lower(program).steps]
        ['matrix', 'shift']
    """
    program = expanded(program)
    steps, values = Steps([math.prod(program.input_shape)]), {program.source: 0}
    for site in program.sites():
        node = site.node
        if node.op not in RULES:
            raise ValueError(
                f"`{node.name}` ({node.type or node.op}) is an operation that the page of a "
                "playground does not run; `taut report` makes a page of any certified model."
            )
        values[node.name] = RULES[node.op](steps, site, [values[name] for name in node.inputs])
    return steps.pruned(values[program.output])
