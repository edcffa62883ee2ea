"""What every experiment has in common: its command, its options, its progress and its errors."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, final

import torch

from experiments._record import Record, command_line
from taut.cli.progress import show_training
from taut.cli.shared import progress, show_table

__all__ = ["Experiment", "Option", "option", "progress", "show_table", "show_training", "tracked"]

_Item = TypeVar("_Item")
# A wrong argument or file is the user's to mend (exit code 2); anything else is a failure (1).
_WRONG_USE = (
    ValueError,
    NotImplementedError,
    ImportError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


Option = tuple[str, dict[str, Any]]  # as argparse takes it


def option(name: str, default: Any = None, help: str = "", **settings: Any) -> Option:
    """An option, or an argument if its name has no dashes.

    The default decides what is read: False makes a switch, a tuple several values.
    """
    if default is False:
        return name, {"action": "store_true", "help": help}
    if isinstance(default, tuple):
        settings = {"nargs": "+", "type": type(default[0]) if default else str} | settings
    elif default is not None:
        settings = {"type": type(default)} | settings
    if default not in (None, ()):
        values = default if isinstance(default, tuple) else (default,)
        help = f"{help} (default: {' '.join(map(str, values))})".strip()
    return name, {"default": default, "help": help, **settings}


DATA_DIR = option("--data-dir", help="the folder with the files of the data", type=Path)
DEVICE = option(
    "--device", "auto", "auto takes a GPU if there is one", choices=("auto", "cpu", "cuda")
)
QUICK = option("--quick", False, "small cases, to try it out")
SEEDS = option("--seeds", (0, 1, 2), "one run each")
_THREADS = option("--threads", help="of torch on the CPU; left out: as it likes", type=int)
_RECORD = option("--record", help="the file to write; left out: only print", type=Path)


@final
@dataclass(frozen=True)
class Experiment:
    """`python -m experiments.NAME`."""

    name: str  # of its module
    about: str | None  # what it measures, and an example: the docstring of its module
    work: Callable[[argparse.Namespace, Record], None]  # with the options given; fills the record
    options: Sequence[Option] = ()  # beside `--threads` and `--record`
    threads: int | None = None  # of torch, where they are not the user's to choose
    records: bool = True  # whether it fills a record

    def parser(self) -> argparse.ArgumentParser:
        parser = _Parser(
            prog=f"python -m experiments.{self.name}",
            description=self.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, settings in self._all_options():
            parser.add_argument(name, **settings)
        return parser

    def _all_options(self) -> list[Option]:
        common = [_THREADS] * (self.threads is None) + [_RECORD] * self.records
        return [*self.options, *common]

    def main(self) -> NoReturn:
        sys.exit(self.run(sys.argv[1:]))

    def run(self, words: Sequence[str]) -> int:
        """Parse, work, and say in one sentence what is wrong; the exit code as of `taut`."""
        try:
            args = self.parser().parse_args(words)
            _check(args)
            threads = args.threads if self.threads is None else self.threads
            if threads is not None:
                if threads < 1:
                    raise ValueError(f"`threads` must be at least 1; got {threads}.")
                torch.set_num_threads(threads)
            path = args.record if self.records else None
            self.work(args, Record(path, command_line(self.name, words)))
            return 0
        except BrokenPipeError:
            # The reader, such as `head`, has had enough. Nothing may be flushed to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt as error:
            code, said = 130, str(error) or "interrupted."
        except _WRONG_USE as error:
            code, said = 2, sentence(error)
        except (RuntimeError, OSError) as error:
            code, said = 1, sentence(error)
        # After the handlers: only then have progress bars gone.
        print(f"experiments.{self.name}: {self._with_flags(said)}", file=sys.stderr)
        return code

    def _with_flags(self, said: str) -> str:
        """A sentence that names options as they are typed: `--data-dir`, not `data_dir`."""
        flags = {name.lstrip("-").replace("-", "_"): name for name, _ in self._all_options()}
        return re.sub(r"`(\w+)`", lambda found: f"`{flags.get(found[1], found[1])}`", said)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see --help)")


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers below zero, and a value that is given twice."""
    for name, value in vars(args).items():
        values = value if isinstance(value, list | tuple) else (value,)
        if len(set(values)) < len(values):
            raise ValueError(
                f"`{name}` must have different values; got {' '.join(map(str, values))}."
            )
        for number in values:
            if isinstance(number, int | float) and not number >= 0:
                raise ValueError(f"`{name}` must be a number >= 0; got {number}.")


def tracked(items: Sequence[_Item], what: str = "cases") -> Iterator[_Item]:
    """The items one by one, with a bar on a terminal."""
    with progress(what, len(items)) as tell:
        for done, item in enumerate(items):
            tell(done)
            yield item


def sentence(error: BaseException) -> str:
    r"""An error on one line.

    >>> sentence(ValueError("no such\n layer"))
    'no such layer'
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
