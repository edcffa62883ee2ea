"""Files in records/: what was found, with where and how it was measured."""

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, final

import torch

from taut.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RECORDS, RUNS, FIGURES = ROOT / "records", ROOT / "runs", ROOT / "docs" / "figures"
LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "orthogonium", "deel-torchlip", "foolbox", "torchattacks",
)  # fmt: skip
_PLACES = ("--data-dir", "--run")
_CHANGING = ("command", "date")  # from one run to the next that goes on with a record


@final
class Record:
    """What an experiment finds; with a path, written as JSON whenever something is added."""

    def __init__(self, path: Path | None, command: str) -> None:
        self.path, self.command = path, command
        self.content: dict[str, Any] = {}

    def environment(self) -> dict[str, str | int]:
        """Where and with what this command runs."""
        return environment(self.command)

    def begin(self, **about: Any) -> None:
        """Start anew: where it is measured, and what is the same for all of it."""
        self.content = {"environment": self.environment(), **about}

    def resume(self, settings: Mapping[str, Any]) -> None:
        """Go on with what the file holds; refuses what other settings, machines, commits gave."""
        self.begin(settings=dict(settings))
        if self.path is None or not self.path.is_file():
            return
        here = self.content["environment"] | self.content["settings"]
        self.content = read(self.path)
        try:
            stored = self.content["environment"] | self.content["settings"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged and cannot be read ({error}).") from None
        for name, new in here.items():
            if name not in _CHANGING and stored.get(name) != new:
                raise ValueError(
                    f"{self.path} holds results with {name} {stored.get(name)}, this run has "
                    f"{new}: give another path, or remove that file to measure again."
                )

    def keep(self, **parts: Any) -> None:
        """Add or replace parts."""
        self.content |= parts
        if self.path is not None:
            write_json(self.path, self.content)

    def add(self, part: str, row: Mapping[str, Any]) -> None:
        """Append a row to a part, and print its numbers and words."""
        print(brief(row), flush=True)
        self.keep(**{part: [*self.content.get(part, ()), row]})


def environment(command: str) -> dict[str, str | int]:
    """Commit, date, hardware, versions and threads."""
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in LIBRARIES},
    }


def command_line(name: str, words: Sequence[str]) -> str:
    """A command as typed, but for places on this machine."""
    pairs = zip(words, ["", *words], strict=False)
    places = [before in _PLACES or Path(word).is_absolute() for word, before in pairs]
    kept = ("DIR" if place else word for word, place in zip(words, places, strict=True))
    return f"python -m experiments.{name} {shlex.join(kept)}".rstrip()


def read(path: Path) -> dict[str, Any]:
    """A record; empty where it has not been measured yet.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def brief(row: Mapping[str, Any]) -> str:
    """The numbers, words and shapes of a row on one line; longer parts are left to the file."""
    words = []
    for key, value in row.items():
        if isinstance(value, tuple) and all(isinstance(size, int) for size in value):
            words.append(f"{key} {'x'.join(map(str, value))}")
        elif isinstance(value, str | int | float):
            words.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return "  ".join(words)


def _commit() -> str:
    """The commit of this checkout; the version of the package where it is none."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return f"taut {_version('taut')}"
    return commit + (" and changes" if _git("diff", "HEAD") else "")


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:  # there is no git
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
