"""The commands, and what every one of them does about errors."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from taut.kinds import did_you_mean

# A wrong argument or file is the user's mistake (exit code 2); anything else is a failure (1).
_WRONG_VALUE = (ValueError, NotImplementedError, ImportError, PermissionError)
_WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
# What the extra `cli` installs, by the names that are imported.
_CLI = ("PIL", "filelock", "jinja2", "lightning_fabric", "markupsafe", "matplotlib", "rich", "tyro")

# Each command is a function of its name in a module of its name, imported late: help stays quick.
COMMANDS = {
    "train": "Train a recipe into a run folder, or continue a stopped run.",
    "certify": "Prove the accuracy of a run within l2 distances.",
    "predict": "Classify images, and prove within which distance nothing changes that.",
    "verify": "Prove again what a certificate says, whoever wrote it.",
    "attack": "Search for adversarial examples of a run.",
    "inspect": "Show spectrum and gradient at every layer of a model.",
    "watch": "Show the last epochs of a run while it trains.",
    "report": "Write one HTML page about a run, or several.",
    "play": "Write one HTML page in which a net runs and is attacked.",
    "export": "Write the model of a run to a file that needs no taut.",
    "demo": "Train, certify, attack and report on embedded images.",
    "wasserstein": "Bound the distance of two samples from both sides.",
    "drift": "Test whether new points come from where the reference does.",
    "list": "List what recipes, models, losses, data sets and methods there are.",
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
        width = max(map(len, COMMANDS))
        lines = (f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
        print(_HELP.format(commands="\n".join(lines)))
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        import taut

        print(f"taut {taut.__version__}")
        return 0
    if name not in COMMANDS:
        names = ", ".join(COMMANDS)
        hint = did_you_mean(name, COMMANDS)
        return _say(f"there is no command {name!r}; the commands are {names}.{hint}", code=2)
    try:
        _run(name, rest)
    except BrokenPipeError:
        # The reader, such as `head`, has closed. Nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted.", code=130)
    except (*_WRONG_VALUE, *_WRONG_PATH) as error:
        package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
        if package in _CLI:
            return _say(f"`{arguments[0]}` needs {package}: pip install 'taut[cli]'.", code=2)
        return _say(_sentence(error), code=2)
    except (RuntimeError, OSError) as error:
        return _say(_sentence(error), code=1)
    return 0


def _run(name: str, arguments: list[str]) -> None:
    names = vars(import_module(f"taut.cli.{name}"))
    if name == "train":  # it parses for itself
        names["main"](arguments)
        return
    from taut.cli.parsing import call

    call(names["list_" if name == "list" else name], name, arguments)


_HELP = """usage: taut COMMAND [options]

Provably 1-Lipschitz networks: train, certify, attack, report.

{commands}

Example: taut train demo && taut certify runs/demo-seed0
Options of a command: taut COMMAND --help"""


def _say(sentence: str, *, code: int) -> int:
    print(f"taut: {sentence}", file=sys.stderr)
    return code


def _sentence(error: BaseException) -> str:
    """The message on one line; an operating system error names its file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
