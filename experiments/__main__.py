"""`python -m experiments` lists the commands."""

import importlib
import sys

from experiments import NAMES


def main() -> int:
    for name in NAMES:
        about = importlib.import_module(f"experiments.{name}").EXPERIMENT.about or ""
        print(f"  python -m experiments.{name:20} {about.splitlines()[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
