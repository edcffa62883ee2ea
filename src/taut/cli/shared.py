"""Options and output that several commands have in common."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from taut.certification import Certification

OptionalRun = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
OptionalShape = Annotated[str | None, tyro.conf.arg(metavar="N,N,...", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
OptionalNumber = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Eps = Annotated[tuple[str, ...], tyro.conf.arg(metavar="EPS ...", help_behavior_hint="")]


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


def show_certification(title: str, certification: Certification) -> None:
    """Print clean and certified accuracy at each radius."""
    clean = percent(certification.clean_accuracy)
    shares = certification.certified_accuracy.items()
    rows = [(str(eps), clean, percent(share)) for eps, share in shares]
    show_table(title, ("eps", "clean", "certified"), rows)


def check_output(path: Path | None) -> None:
    """Refuse a file that cannot be written, before the work that it is for."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"`output` must be a file in a folder that exists; got {path}.")


def plural(count: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> plural(1, "image"), plural(2000, "image")
        ('1 image', '2,000 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shape_of(text: str) -> tuple[int, ...]:
    """Read the shape of an input.

    Example:
        >>> shape_of("3,32,32")
        (3, 32, 32)
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"`input_shape` must be positive integers such as 3,32,32; got {text!r}.")
    return tuple(map(int, parts))


def percent(share: float) -> str:
    """Write a share in per cent.

    Example:
        >>> percent(0.4584)
        '45.84 %'
    """
    return f"{100 * share:.2f} %"
