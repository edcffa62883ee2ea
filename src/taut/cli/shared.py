"""What the commands that read a run folder have in common."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from taut.data import Dataset
from taut.training import Device, Run, choose_device

RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Eps = Annotated[tuple[str, ...], tyro.conf.arg(metavar="EPS ...", help_behavior_hint="")]


@dataclass(frozen=True)
class Opened:
    """A run with its model and its test images on one device."""

    run: Run
    model: nn.Module
    data: Dataset
    images: Tensor
    labels: Tensor

    def head(self, limit: int) -> tuple[Tensor, Tensor]:
        """Return the first `limit` test images and their labels."""
        check_limit(limit)
        return self.images[:limit], self.labels[:limit]

    def title(self, count: int) -> str:
        """What numbers on `count` test images are about; says so if training is not finished."""
        title = f"{self.data.label}, {count:,} test images"
        done, epochs = len(self.run.history()), self.run.recipe.epochs
        return title if done >= epochs else f"{title}, after {done} of {epochs} epochs"


def check_limit(limit: int) -> None:
    """Refuse to look at no image."""
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1; got {limit}.")


def open_run(folder: Path, device: Device) -> Opened:
    """Load what a run folder holds, on a GPU if there is one and `device` is "auto"."""
    run = Run.open(folder)
    chosen = choose_device(device)
    model = run.model(chosen)
    data = run.dataset()
    test = data.test.to(chosen)
    return Opened(run, model, data, test.float_images(), test.labels)


def check_eps(eps: tuple[str, ...], run: Run) -> tuple[str, ...]:
    """Return the radii asked for, or those of the recipe, in rising order."""
    chosen = replace(run.recipe, eps=eps or run.recipe.eps)  # a recipe checks its own
    return tuple(sorted(chosen.eps, key=Fraction))


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, nothing elsewhere; yields a function of the number done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def show_table(title: str, names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A pipe has no width: a table is not cut for it.
    console = console if console.is_terminal else Console(width=160)
    console.print(title, style="bold", highlight=False)
    console.print(table)


def percent(share: float) -> str:
    """Write a share in per cent.

    Example:
        >>> percent(0.4584)
        '45.84 %'
    """
    return f"{100 * share:.2f} %"
