"""What the commands that read a run folder have in common."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from taut.certification import Arithmetic, Certification, certify_batches
from taut.data import AbstractSplit, Dataset, StreamedDataset
from taut.training import Device, Run, choose_device

RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Eps = Annotated[tuple[str, ...], tyro.conf.arg(metavar="EPS ...", help_behavior_hint="")]


_BATCH = 256


@dataclass(frozen=True)
class Opened:
    """A run with its model and its test images on one device, or on their way to it."""

    run: Run
    model: nn.Module
    data: Dataset | StreamedDataset
    test: AbstractSplit

    def head(self, limit: int) -> tuple[Tensor, Tensor]:
        """Return the first `limit` test images and their labels."""
        check_limit(limit)
        (found,) = self.test.fetch(torch.arange(len(self.test)), [slice(0, limit)])
        return found.float_images(), found.labels

    def certify(
        self,
        eps: Sequence[str],
        arithmetic: Arithmetic = "float64",
        model: nn.Module | None = None,
    ) -> Certification:
        """Certify the run's model, or another one, on the whole test set, batch by batch."""
        order = torch.arange(len(self.test))
        parts = [slice(start, start + _BATCH) for start in range(0, len(order), _BATCH)]
        batches = ((p.float_images(), p.labels) for p in self.test.fetch(order, parts))
        model, shape = model or self.model, self.data.input_shape
        return certify_batches(model, batches, shape, eps, arithmetic=arithmetic)

    def title(self, count: int | None = None) -> str:
        """What numbers on `count` test images are about; says so if training is not finished."""
        count = len(self.test) if count is None else count
        title = f"{self.data.label}, {count:,} test images"
        done, epochs = len(self.run.history()), self.run.recipe.epochs
        return title if done >= epochs else f"{title}, after {done} of {epochs} epochs"


def check_limit(limit: int) -> None:
    """Refuse to look at no image."""
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1; got {limit}.")


def open_run(folder: Path, device: Device) -> Opened:
    """Load what a run folder holds, on a GPU if there is one and `device` is "auto".

    Images that training streamed from disk are streamed again.
    """
    run = Run.open(folder)
    chosen = choose_device(device)
    model, data = run.model(chosen), run.data()
    return Opened(run, model, data, data.test.to(chosen))


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
