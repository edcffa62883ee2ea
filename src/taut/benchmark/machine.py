"""Where and with what a measurement was made."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("numpy", "orthogonium", "deel-torchlip")
_SOURCE = Path(__file__).resolve().parent


def environment(command: str) -> dict[str, str | int]:
    """Commit, date, hardware, versions and threads, as a record holds them.

    Args:
        command: what was typed.

    Example:
        >>> environment("taut bench")["torch"] == torch.__version__
        True
    """
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


def _commit() -> str:
    """Of the source that runs; the version of the package where it is not a checkout."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return f"taut {_version('taut')}"
    return commit + (" and changes" if _git("diff", "HEAD") else "")


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=_SOURCE, capture_output=True, text=True)
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
