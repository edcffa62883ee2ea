"""What training looks like on a terminal, and in a log file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from taut.training import Evaluation
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
    text = f"loss {progress.loss:.4f}"
    return text if progress.evaluation is None else f"{text}  {accuracies(progress.evaluation)}"


def accuracies(evaluation: Evaluation) -> str:
    """Clean and certified accuracy in per cent.

    Example:
        >>> accuracies(Evaluation(0.9754, {"1.58": 0.4584}, 1.0))
        'clean 97.54  certified 45.84 (eps 1.58)'
    """
    certified = "  ".join(
        f"certified {100 * value:.2f} (eps {eps})"
        for eps, value in evaluation.certified_accuracy.items()
    )
    return f"clean {100 * evaluation.clean_accuracy:.2f}  {certified}"


def _print_epochs() -> Callback:
    seen: list[Evaluation] = []

    def update(progress: TrainingProgress) -> None:
        if progress.evaluation is not None and progress.evaluation not in seen[-1:]:
            seen[:] = [progress.evaluation]
            print(f"epoch {progress.epoch}  {describe(progress)}", flush=True)

    return update
