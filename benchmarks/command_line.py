"""What the commands print, as docs/command-line.md shows it: their help, and a session.

python -m benchmarks.command_line --out records/command-line.json
"""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.environment import ROOT, environment
from taut.cli import main as taut
from taut.cli.app import COMMANDS

RECORD = ROOT / "records" / "command-line.json"

# In this order in one folder; the first of a command is the example under its name.
SESSION = (
    "taut list",
    "taut train demo --epochs 3 --run runs/short",
    "taut certify runs/short --eps 0.1 0.3",
    "taut attack runs/short --method pgd fgsm --eps 0.1 0.3 --limit 100",
    "taut inspect runs/short --limit 50",
    "taut report runs/short --limit 100",
    "taut export runs/short --to safetensors",
    "taut certify runs/short/safetensors/model.safetensors",
    "taut wasserstein fashion-mnist-subset fashion-mnist-subset --samples 200 --steps 50",
    "taut bench --layers 16x16x3@8b4 --methods plain taut --repeats 3",
    "taut reproduce table1 --setting quick --only small BCOP",
    "taut reproduce table4 --setting quick --only MaxMin",
    "taut train mnist-smal",
    "taut demo --limit 100",
)

# A recipe's options are many, and follow the name of one.
_HELP = {"train": ("--help",), "train-recipe": ("mnist-small", "--help")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RECORD)
    target = parser.parse_args().out.resolve()
    record = {"environment": environment(), "seed": 0, "session": session(SESSION)}
    target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def session(commands: Sequence[str]) -> list[dict[str, str | int]]:
    """What commands print, one after the other in a fresh folder, and their exit codes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return [
            {"command": line, **dict(zip(("code", "output"), called(line), strict=True))}
            for line in commands
        ]


def called(line: str) -> tuple[int, str]:
    """The exit code of a command, and what it prints on both streams without a terminal."""
    text = io.StringIO()
    with _columns(100), contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = taut(shlex.split(line)[1:])
        except SystemExit as exit:  # of the help
            code = int(exit.code or 0)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())
    return code, "\n".join(row.rstrip() for row in plain.strip("\n").splitlines())


@contextlib.contextmanager
def _columns(count: int) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS=str(count), NO_COLOR="1")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def help_block(name: str) -> str:
    command, *options = (name.split("-")[0], *_HELP.get(name, ("--help",)))
    _, text = called(shlex.join(["taut", command, *options]))
    return "```text\n" + re.sub(r"\n{3,}", "\n\n", _wrapped(text)).strip() + "\n```\n"


def example(name: str) -> str:
    """The commands of a name in the recorded session, each with what it printed."""
    record = json.loads(RECORD.read_text())
    parts = []
    for run in record["session"]:
        words = run["command"].split()
        if words[1] == name and run["code"] == 0:
            parts.append(f"```sh\n{run['command']}\n```\n\n```text\n{run['output']}\n```\n")
    return "\n".join(parts)


def overview() -> str:
    rows = ["| command | what it does |", "|---|---|"]
    rows += [f"| [`taut {name}`](#taut-{name}) | {c.summary} |" for name, c in COMMANDS.items()]
    return "\n".join(rows) + "\n"


def wrong_use() -> str:
    run = next(run for run in json.loads(RECORD.read_text())["session"] if run["code"])
    said = _wrapped(str(run["output"]))
    return f"```text\n$ {run['command']}\n{said}\n$ echo $?\n{run['code']}\n```\n"


def _wrapped(text: str) -> str:
    """Sentences as a terminal of 100 columns shows them; what is indented has its lines."""
    fill = partial(textwrap.fill, width=100, break_on_hyphens=False)
    return "\n".join(fill(row) if row[:1].strip() else row for row in text.splitlines())


COMMAND_TABLES: dict[str, Callable[[], str]] = {
    "commands": overview,
    "wrong-use": wrong_use,
    **{f"help-{name}": partial(help_block, name) for name in (*COMMANDS, "train-recipe")},
    **{f"example-{name}": partial(example, name) for name in COMMANDS},
}


if __name__ == "__main__":
    main()
