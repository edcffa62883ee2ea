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
    """As typed, but for places on this machine."""
    words = [f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
    pairs = zip(words, ["", *words], strict=False)
    return " ".join("DIR" if _is_place(word, before) else word for word, before in pairs)


def _is_place(word: str, before: str) -> bool:
    return before in _PLACES or Path(word).is_absolute()
