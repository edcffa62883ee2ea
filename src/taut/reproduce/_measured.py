"""What a table says of a run, measured once and kept in its folder."""

import json
from collections.abc import Mapping, Sequence

from taut.files import write_atomically
from taut.reproduce._table import Measure
from taut.training import Run

MEASURED = "measured.json"


def measured(run: Run) -> dict[str, float]:
    """What has been measured of a run so far.

    Args:
        run: of a table.

    Returns:
        Accuracies from 0 to 1 by label, and the Lipschitz bound as "bound".

    Raises:
        ValueError: if the file is damaged; the message names it.
    """
    path = run.path / MEASURED
    if not path.is_file():
        return {}
    try:
        return {str(label): float(value) for label, value in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None


def missing(run: Run, measures: Sequence[Measure]) -> list[Measure]:
    """Those that have not been taken of a run."""
    known = measured(run)
    return [measure for measure in measures if measure.label not in known]


def keep(run: Run, known: Mapping[str, float]) -> None:
    """Writes what is known of a run into its folder.

    Args:
        run: whose.
        known: as `measured` returns it.
    """
    write_atomically(run.path / MEASURED, (json.dumps(known, indent=1) + "\n").encode())
