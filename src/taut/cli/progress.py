"""What training looks like on a terminal, and in a log file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from taut.certification import Certification
from taut.training import Progress as TrainingProgress

Callback = Callable[[TrainingProgress], None]


@contextmanager
def show_training() -> Iterator[Callback]:
    """A progress bar on a terminal, one line an epoch elsewhere.

    Yields:
        What to give to `taut.training.train` as `on_progress`.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_epochs()
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("", epoch="", numbers="")

        def update(progress: TrainingProgress) -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.step,
                epoch=str(progress.epoch),
                numbers=describe(progress),
            )

        yield update


def describe(progress: TrainingProgress) -> str:
    """Loss, clean and certified accuracy on one line."""
    text, found = f"loss {progress.loss:.4f}", progress.evaluation
    if found is None:
        return text
    return f"{text}  {accuracies(found.clean_accuracy, found.certified_accuracy)}"


def accuracies(clean: float, certified: Mapping[Any, float]) -> str:
    """Clean and certified accuracy in per cent.

    Example:
        >>> accuracies(0.9754, {"1.58": 0.4584})
        'clean 97.54  certified 45.84 (eps 1.58)'
    """
    parts = [f"certified {100 * share:.2f} (eps {eps})" for eps, share in certified.items()]
    return "  ".join([f"clean {100 * clean:.2f}", *parts])


def _print_epochs() -> Callback:
    seen: list[Certification] = []

    def update(progress: TrainingProgress) -> None:
        if progress.evaluation is not None and progress.evaluation not in seen[-1:]:
            seen[:] = [progress.evaluation]
            print(f"epoch {progress.epoch}  {describe(progress)}", flush=True)

    return update
