"""The commands, and what every one of them does about errors."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from taut.kinds import did_you_mean

# A wrong argument or file is the user's mistake (exit code 2); anything else is a failure (1).
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
# What the extra `cli` installs, by the names that are imported.
_EXTRA = (
    "PIL",
    "filelock",
    "jinja2",
    "lightning_fabric",
    "markupsafe",
    "matplotlib",
    "rich",
    "tyro",
)


@dataclass(frozen=True)
class Command:
    """One command, in the module of `taut.cli` that is named as the command."""

    summary: str  # its line in `taut --help`
    function: str  # in the module, which is imported late, so that help stays quick

    def run(self, name: str, arguments: list[str]) -> None:
        """Call the function with the arguments after the name of the command."""
        function = vars(import_module(f"taut.cli.{name}"))[self.function]
        if self.function == "main":  # it parses for itself
            function(arguments)
        else:
            from taut.cli.parsing import call

            call(function, name, arguments)


COMMANDS = {
    "train": Command("Train a recipe into a run folder, or continue a stopped run.", "main"),
    "certify": Command("Prove the accuracy of a run within l2 distances.", "certify"),
    "verify": Command("Prove again what a certificate says, whoever wrote it.", "verify"),
    "attack": Command("Search for adversarial examples of a run.", "attack"),
    "inspect": Command("Show spectrum and gradient at every layer of a model.", "inspect"),
    "report": Command("Write one HTML page about a run.", "report"),
    "export": Command("Write the model of a run to a file that needs no taut.", "export"),
    "demo": Command("Train, certify, attack and report on embedded images.", "demo"),
    "wasserstein": Command("Bound the distance of two samples from both sides.", "wasserstein"),
    "list": Command("List what recipes, models, losses, data sets and methods there are.", "list_"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 (failed), 2 (wrong use) or 130 (interrupted).

    Example:
        >>> main(["--version"])
        taut 0.1.0
        0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"taut {_version()}")
        return 0
    if name not in COMMANDS:
        names = ", ".join(COMMANDS)
        hint = did_you_mean(name, COMMANDS)
        return _say(f"there is no command {name!r}; the commands are {names}.{hint}", code=2)
    try:
        COMMANDS[name].run(name, rest)
    except BrokenPipeError:
        # The reader, such as `head`, has closed. Nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted.", code=130)
    except _WRONG_USE as error:
        package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
        if package in _EXTRA:
            return _say(f"`{arguments[0]}` needs {package}: pip install 'taut[cli]'.", code=2)
        return _say(_sentence(error), code=2)
    except (RuntimeError, OSError) as error:
        return _say(_sentence(error), code=1)
    return 0


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
