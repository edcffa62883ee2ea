"""`taut watch`."""

import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from taut.cli.model_file import check_run
from taut.training import EpochRow, Run

_ROWS = 12  # last epochs shown
_Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def watch(run: _Folder, *, every: float = 2.0) -> None:
    """Show the last epochs of a run while it trains; ends when the run does.

    Reads metrics.csv alone, from any machine that sees the folder; the training does not notice.
    Ctrl-C ends the view, and not the training.

    Example: taut watch runs/demo

    Args:
        run: the run folder.
        every: seconds from one look at the folder to the next.
    """
    if not every > 0:
        raise ValueError(f"`every` must be a positive number of seconds; got {every}.")
    check_run(run)
    opened = Run.open(run)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    with Live(_view(opened), console=console, auto_refresh=False) as live:
        while not opened.finished():
            time.sleep(every)
            live.update(_view(opened), refresh=True)
        live.update(_view(opened), refresh=True)


def _view(run: Run) -> Group:
    """What is shown of a run: its last epochs, one row each."""
    rows, recipe = run.history(), run.recipe
    judged = "validation" if recipe.validation else "test"
    title = f"{run.path}: {len(rows)} of {recipe.epochs} epochs; accuracies in % on {judged} images"
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in ("epoch", "loss", "clean", *(f"certified {eps}" for eps in recipe.eps), "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[-_ROWS:]:
        table.add_row(*_cells(row, recipe.eps))
    return Group(Text(title), table)


def _cells(row: EpochRow, eps: tuple[str, ...]) -> list[str]:
    shares = [row["clean_accuracy"], *(row[f"certified_accuracy_{text}"] for text in eps)]
    accuracies = [f"{100 * share:.2f}" for share in shares]
    return [str(row["epoch"]), f"{row['train_loss']:.4f}", *accuracies, f"{row['seconds']:.0f}"]
