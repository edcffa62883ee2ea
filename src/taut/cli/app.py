"""The commands, and what every one of them does about errors."""

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        summary: its line in `taut --help`.
        run: takes the arguments after its name. It imports what it needs when it is called, so
            that help stays quick.
    """

    summary: str
    run: Callable[[list[str]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `taut`.

    Args:
        arguments: the command and its arguments; those of the process if None.

    Returns:
        The exit code: 0, 1 (failed), 2 (wrong use) or 130 (interrupted).

    Example:
        >>> main(["--version"])
        taut 0.1.0
        0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"taut {_version()}")
        return 0
    if arguments[0] not in COMMANDS:
        names = ", ".join(COMMANDS)
        return _say(f"there is no command {arguments[0]!r}; the commands are {names}.", code=2)
    try:
        COMMANDS[arguments[0]].run(arguments[1:])
    except BrokenPipeError:
        # The reader, such as `head`, has had enough. Nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted.", code=130)
    except _WRONG_USE as error:
        return _say(_sentence(error), code=2)
    except (RuntimeError, OSError) as error:
        return _say(_sentence(error), code=1)
    return 0


def call(function: Callable[..., Any], name: str, arguments: list[str]) -> None:
    """Calls a typed function with arguments from the command line.

    Args:
        function: its signature and docstring become the options and the help.
        name: of the command.
        arguments: what follows the name.
    """
    import tyro

    tyro.cli(_unbroken(function), prog=f"taut {name}", args=arguments)


def _unbroken(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, each argument of its docstring on one line.

    tyro keeps the line breaks of a description, and then wraps the lines once more.
    """

    @functools.wraps(function)
    def same(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    signature = inspect.signature(function)
    del same.__wrapped__  # tyro would read the docstring of that
    same.__dict__["__signature__"] = signature
    head, args, described = (function.__doc__ or "").partition("\n    Args:\n")
    same.__doc__ = head + args + re.sub(r"\n {12}", " ", described)
    return same


def _train(arguments: list[str]) -> None:
    from taut.cli.train import main

    main(arguments)


def _certify(arguments: list[str]) -> None:
    from taut.cli.certify import certify

    call(certify, "certify", arguments)


def _attack(arguments: list[str]) -> None:
    from taut.cli.attack import attack

    call(attack, "attack", arguments)


def _inspect(arguments: list[str]) -> None:
    from taut.cli.inspect import inspect

    call(inspect, "inspect", arguments)


def _report(arguments: list[str]) -> None:
    from taut.cli.report import report

    call(report, "report", arguments)


def _export(arguments: list[str]) -> None:
    from taut.cli.export import export

    call(export, "export", arguments)


def _demo(arguments: list[str]) -> None:
    from taut.cli.demo import demo

    call(demo, "demo", arguments)


def _bench(arguments: list[str]) -> None:
    from taut.cli.bench import main

    main(arguments)


def _reproduce(arguments: list[str]) -> None:
    from taut.cli.reproduce import reproduce

    call(reproduce, "reproduce", arguments)


def _wasserstein(arguments: list[str]) -> None:
    from taut.cli.wasserstein import wasserstein

    call(wasserstein, "wasserstein", arguments)


def _list(arguments: list[str]) -> None:
    from taut.cli.list import list_all

    call(list_all, "list", arguments)


COMMANDS = {
    "train": Command("Train a recipe into a run folder, or go on with a stopped run.", _train),
    "certify": Command("Prove the accuracy of a run within l2 distances.", _certify),
    "attack": Command("Look for adversarial examples of a run.", _attack),
    "inspect": Command("Show spectrum and gradient at every layer of a model.", _inspect),
    "report": Command("Write one HTML page about a run.", _report),
    "export": Command("Write the model of a run to a file that needs no taut.", _export),
    "demo": Command("Train, certify, attack and report on embedded images.", _demo),
    "bench": Command("Measure what layers and nets cost, beside other libraries.", _bench),
    "reproduce": Command("Do a table of the founding paper again, beside its values.", _reproduce),
    "wasserstein": Command("Bound the distance of two samples from both sides.", _wasserstein),
    "list": Command("List recipes, data sets and parametrizations.", _list),
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: taut COMMAND [options]",
            "",
            "Provably 1-Lipschitz networks: train, certify, attack, report.",
            "",
            *lines,
            "",
            "Example: taut train demo && taut certify runs/demo-seed0",
            "Options of a command: taut COMMAND --help",
        ]
    )


def _version() -> str:
    import taut

    return taut.__version__


def _say(sentence: str, *, code: int) -> int:
    print(f"taut: {sentence}", file=sys.stderr)
    return code


def _sentence(error: BaseException) -> str:
    """The message on one line; an operating system error names its file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
