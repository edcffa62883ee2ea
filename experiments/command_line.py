"""What the commands print, as docs/command-line.md shows it: their help, and a session.

Example: python -m experiments.command_line --record records/command-line.json
"""

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import numpy as np

from experiments._record import RECORDS, Record, read
from experiments._runner import Experiment, tracked
from experiments._show import markdown
from taut.cli import main as taut
from taut.cli.app import COMMANDS
from taut.data import load

RECORD = RECORDS / "command-line.json"

# In this order in one folder; the first of a command is the example under its name.
SESSION = (
    "taut list",
    "taut train demo --epochs 3 --run runs/short",
    "taut watch runs/short",
    "taut certify runs/short --eps 0.1 0.3",
    "taut predict runs/short images.npy --at-least 0.1",
    "taut verify runs/short/certificate.json",
    "taut attack runs/short --method pgd fgsm --eps 0.1 0.3 --limit 100",
    "taut inspect runs/short --limit 50",
    "taut report runs/short --limit 100",
    "taut play runs/short",
    "taut export runs/short --to safetensors",
    "taut certify runs/short/safetensors/model.safetensors",
    "taut wasserstein fashion-mnist-subset fashion-mnist-subset --samples 200 --steps 50",
    "taut drift fashion-mnist-subset fashion-mnist-subset --samples 200",
    "python -m experiments.speed --layers 16x16x3@8b4 --methods plain taut --repeats 3",
    "python -m experiments.reproduce table1 --setting quick --only small BCOP",
    "python -m experiments.reproduce table4 --setting quick --only MaxMin",
    "taut train mnist-smal",
    "taut demo --limit 100",
)

# A recipe's options are many, and follow the name of one.
_HELP = {"train": ("--help",), "train-recipe": ("mnist-small", "--help")}
_EXPERIMENT = "python -m experiments."


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(seed=0)
    record.keep(session=session(SESSION))


def session(commands: Sequence[str]) -> list[dict[str, str | int]]:
    """What commands print, one after the other in a fresh folder, and their exit codes.

    The folder holds the first five test images of the embedded data set.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        np.save("images.npy", load("fashion-mnist-subset").test.images[:5].numpy())
        return [
            {"command": line, **dict(zip(("code", "output"), called(line), strict=True))}
            for line in tracked(commands, "commands")
        ]


def called(line: str) -> tuple[int, str]:
    """The exit code of a command, and what it prints on both streams without a terminal."""
    text = io.StringIO()
    run, words = entry(line)
    plain_terminal = patch.dict(os.environ, COLUMNS="100", NO_COLOR="1")
    with plain_terminal, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = run(words)
        except SystemExit as exit:  # of the help
            code = int(exit.code or 0)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())
    return code, "\n".join(row.rstrip() for row in plain.strip("\n").splitlines())


def entry(line: str) -> tuple[Callable[[Sequence[str]], int], list[str]]:
    """What a command line calls, and with which words."""
    words = shlex.split(line)
    if line.startswith(_EXPERIMENT):
        return importlib.import_module(words[2]).EXPERIMENT.run, words[3:]
    return taut, words[1:]


def help_block(name: str) -> str:
    command, *options = (name.split("-")[0], *_HELP.get(name, ("--help",)))
    return text_block(_wrapped(called(shlex.join(["taut", command, *options]))[1]))


def experiment_help(name: str) -> str:
    return text_block(called(f"{_EXPERIMENT}{name} --help")[1])


def text_block(text: str) -> str:
    return "```text\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n```\n"


def example(start: str) -> str:
    """The recorded commands that begin so, each with what it printed."""
    runs = (run for run in read(RECORD)["session"] if run["code"] == 0)
    return "\n".join(
        f"```sh\n{run['command']}\n```\n\n```text\n{run['output']}\n```\n"
        for run in runs
        if run["command"].startswith(f"{start} ") or run["command"] == start
    )


def overview() -> str:
    rows = ((f"[`taut {name}`](#taut-{name})", what) for name, what in COMMANDS.items())
    return markdown(("command", "what it does"), rows)


def wrong_use() -> str:
    run = next(run for run in read(RECORD)["session"] if run["code"])
    said = _wrapped(str(run["output"]))
    return f"```text\n$ {run['command']}\n{said}\n$ echo $?\n{run['code']}\n```\n"


def _wrapped(text: str) -> str:
    """Sentences as a terminal of 100 columns shows them; what is indented has its lines."""
    fill = partial(textwrap.fill, width=100, break_on_hyphens=False)
    return "\n".join(fill(row) if row[:1].strip() else row for row in text.splitlines())


def experiment_tables(name: str) -> dict[str, Callable[[], str]]:
    """The help of an experiment and what it prints, for its page."""
    return {
        f"help-{name}": partial(experiment_help, name),
        f"example-{name}": partial(example, f"{_EXPERIMENT}{name}"),
    }


TABLES: dict[str, Callable[[], str]] = {
    "commands": overview,
    "wrong-use": wrong_use,
    **{f"help-{name}": partial(help_block, name) for name in (*COMMANDS, "train-recipe")},
    **{f"example-{name}": partial(example, f"taut {name}") for name in COMMANDS},
}

EXPERIMENT = Experiment("command_line", __doc__, work)

if __name__ == "__main__":
    EXPERIMENT.main()
