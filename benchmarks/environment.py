"""Where and with what a measurement was made."""

import sys
from pathlib import Path

from taut.benchmark import environment as measured_with

ROOT = Path(__file__).resolve().parent.parent
_PLACES = ("--data-dir", "--run")


def environment() -> dict[str, str | int]:
    """Commit, date, hardware, versions and threads, as a record holds them."""
    return measured_with(_command())


def _command() -> str:
    """As typed, but for where the data lie on this machine."""
    words = [f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
    pairs = zip(words, ["", *words], strict=False)
    return " ".join("DIR" if before in _PLACES else word for word, before in pairs)
