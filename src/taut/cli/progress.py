"""The progress of training, on a terminal and in a log file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from taut.training import Evaluation
from taut.training import Progress as TrainingProgress

Callback = Callable[[TrainingProgress], None]


@contextmanager
def show_training(epochs: int) -> Iterator[Callback]:
    """A progress bar with the numbers below it on a terminal, one line per epoch elsewhere.

    Yields what `taut.training.train` takes as `on_progress`.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_epochs()
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]} of {task.fields[epochs]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console)
    task = bar.add_task("", epoch=1, epochs=epochs, total=None)
    # Empty until the first step: a finished run shows no bar.
    with Live(console=console, refresh_per_second=4) as live:

        def update(progress: TrainingProgress) -> None:
            bar.update(task, total=progress.total, completed=progress.step, epoch=progress.epoch)
            # Below the bar: beside it they leave it no room on 80 columns.
            live.update(Group(bar, Text(describe(progress))))

        yield update


@contextmanager
def show_bounding() -> Iterator[Callable[[str, float], None] | None]:
    """On a terminal, a line with what is being bounded; nothing elsewhere.

    Yields what `taut.lipschitz_bound` takes as `progress`.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status("reading the model") as status:
        yield lambda name, share: status.update(f"bounding {name} ({share:.0%})")


def describe(progress: TrainingProgress) -> str:
    """Loss, clean and certified accuracy in one line."""
    text, found = f"loss {progress.loss:.4f}", progress.evaluation
    if found is None:
        return text
    return f"{text}  {accuracies(found.clean_accuracy, found.certified_accuracy)}"


def accuracies(clean: float, certified: Mapping[Any, float]) -> str:
    """Clean and certified accuracy in per cent.

    Example:
        >>> accuracies(0.9754, {"1.58": 0.4584})
        'clean 97.54  certified 45.84 (eps 1.58)'
        >>> accuracies(0.852, {"0.1": 0.819, "0.3": 0.742})
        'clean 85.20  certified 81.90 (eps 0.1), 74.20 (0.3)'
    """
    text, before = f"clean {100 * clean:.2f}", "  certified {:.2f} (eps {})"
    for eps, share in certified.items():
        text += before.format(100 * share, eps)
        before = ", {:.2f} ({})"
    return text


def _print_epochs() -> Callback:
    seen: list[Evaluation] = []

    def update(progress: TrainingProgress) -> None:
        if progress.evaluation is not None and progress.evaluation not in seen[-1:]:
            seen[:] = [progress.evaluation]
            print(f"epoch {progress.epoch}  {describe(progress)}", flush=True)

    return update
