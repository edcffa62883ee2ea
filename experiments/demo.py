"""Run `taut demo` from nothing and write what it printed and how long it took.

Example: python -m experiments.demo --record records/demo.json
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments._record import Record, read
from experiments._runner import Experiment


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        command = [sys.executable, "-m", "taut", "demo"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        seconds = time.monotonic() - start
        done.check_returncode()
        certificate = read(Path(folder) / "runs/demo/certificate.json")
    print(done.stdout, f"{seconds:.1f} s")
    record.keep(
        seconds=round(seconds, 1),
        clean=100 * certificate["clean_accuracy"],
        certified={eps: 100 * share for eps, share in certificate["certified_accuracy"].items()},
        printed=done.stdout.splitlines(),
    )


EXPERIMENT = Experiment("demo", __doc__, work)

if __name__ == "__main__":
    EXPERIMENT.main()
