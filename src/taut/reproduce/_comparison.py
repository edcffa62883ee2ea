"""Ours beside what was published."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from taut.reproduce._line import Line
from taut.reproduce._plan import Plan, Planned, has_something_left
from taut.reproduce._protocol import DATASETS
from taut.reproduce._table import Published
from taut.reproduce._work import measured
from taut.training import Run
from taut.training.run import RECIPE, finished


@final
@dataclass(frozen=True)
class Comparison:
    """What is known of a plan so far.

    Args:
        plan: of a table.
        lines: one a system, data set and measure.
        runs: how many of its runs are trained and measured.
    """

    plan: Plan
    lines: tuple[Line, ...]
    runs: int


def compare(plan: Plan) -> Comparison:
    """Reads from the run folders what is finished; trains and measures nothing.

    Args:
        plan: of a table.

    Returns:
        Its lines in the order of the table.

    Raises:
        ValueError: if a file of a run is damaged; the message names it.
    """
    lines = tuple(line for planned in plan.rows for line in _lines(planned))
    return Comparison(plan, lines, sum(not has_something_left(trial) for trial in plan.trials))


def _lines(planned: Planned) -> list[Line]:
    row, data = planned.row, DATASETS[planned.dataset]
    runs = [Run.open(t.folder) for t in planned.trials if (t.folder / RECIPE).is_file()]
    values = [measured(run) for run in runs if finished(run)]
    published: Sequence[Published | None] = row.published or [None] * len(planned.measures)
    quoted = row.method is None
    return [
        Line(
            system=row.system,
            dataset=DATASETS[row.dataset].label if quoted else data.label,
            measure=measure,
            ours=tuple(100 * known[measure.label] for known in values if measure.label in known),
            published=value,
            quoted=quoted,
            comparable=not data.beside,
        )
        for measure, value in zip(planned.measures, published, strict=True)
    ]
