"""Where and with what a measurement was made."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str | int]:
    """Commit, date, hardware, versions and threads, as a record holds them."""
    return {
        "command": _command(),
        "commit": _git("rev-parse", "HEAD") + (" and changes" if _git("diff", "HEAD") else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _command() -> str:
    """As typed, but for where the data lie on this machine."""
    words = [f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
    pairs = zip(words, ["", *words], strict=False)
    return " ".join("DIR" if before == "--data-dir" else word for word, before in pairs)


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
