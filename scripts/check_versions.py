"""Run the fast tests with several versions of Python and torch, each in an environment of its own.

    python scripts/check_versions.py 3.11:2.11.0 3.13:2.14.1

Each pair is made with the interpreter `pythonX.Y` of the path, in a temporary folder, removed
before the next one. Needs the package index. What pip offers of torch for Linux brings CUDA, some 6
GB an environment; `--index-url https://download.pytorch.org/whl/cpu` gives builds of 1 GB. One line
a pair is printed at the end, and the exit code is 1 if one of them fails. The floor in
pyproject.toml is the oldest torch that passes.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["-q", "--ignore", "tests/mutants"]


class Outcome(NamedTuple):
    python: str
    torch: str
    said: str  # the last line of pytest, or what went wrong before
    failed: list[str]
    passed: bool
    minutes: float


def main() -> None:
    """Check each pair, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="*", default=[f"3.11:{floor()}"], metavar="PYTHON:TORCH")
    parser.add_argument("--index-url", help="where to take torch from")
    parser.add_argument("--tests", nargs="+", default=[], help="these alone; all by default")
    chosen = parser.parse_args()
    outcomes = []
    for pair in chosen.pairs:
        if not re.fullmatch(r"3\.\d+:\d+\.\d+(\.\d+)?", pair):
            parser.error(f"a pair must be like 3.11:2.13.0; got {pair!r}")
        python, torch = pair.split(":")
        outcomes.append(checked(python, torch, chosen.index_url, chosen.tests))
        print(line(outcomes[-1]), *outcomes[-1].failed, sep="\n  ", flush=True)
    print(f"\n| Python | torch | tests | minutes |\n|{'---|' * 4}")
    print(*map(line, outcomes), sep="\n")
    sys.exit(not all(outcome.passed for outcome in outcomes))


def floor() -> str:
    """The oldest torch that pyproject.toml allows."""
    found = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    if found is None:
        sys.exit("pyproject.toml names no oldest torch.")
    return f"{found[1]}.0" if found[1].count(".") == 1 else found[1]


def checked(python: str, torch: str, index: str | None, tests: list[str]) -> Outcome:
    """Install a pair and run the tests."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said = installed(python, torch, index, Path(folder))
        failed: list[str] = []
        passed = not said
        if passed:
            command = [str(Path(folder, "venv", "bin", "python")), "-m", "pytest", *TESTS, *tests]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
            failed = [line for line in lines if re.match(r"FAILED|ERROR", line)]
            said, passed = lines[-1].strip("= "), done.returncode == 0
    return Outcome(python, torch, said, failed, passed, (time.monotonic() - start) / 60)


def installed(python: str, torch: str, index: str | None, folder: Path) -> str:
    """Make an environment; what went wrong, in one line, or nothing."""
    interpreter = shutil.which(f"python{python}")
    if interpreter is None:
        return f"no python{python} on the path"
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pin for pin in pins if not pin.startswith("torch==")))
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "-q"]
    source = [] if index is None else ["--index-url", index]
    steps = [
        [interpreter, "-m", "venv", str(folder / "venv")],
        [*pip, "pip>=25.1"],
        [*pip, *source, f"torch=={torch}"],
        [*pip, "-c", str(constraints), f"torch=={torch}", "-e", f"{ROOT}[cli]", "--group", "test"],
    ]
    for step in steps:
        done = subprocess.run(step, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return f"not installed: {lines[-1]}"
    return ""


def line(outcome: Outcome) -> str:
    """A row of the table."""
    return f"| {outcome.python} | {outcome.torch} | {outcome.said} | {outcome.minutes:.0f} |"


if __name__ == "__main__":
    main()
