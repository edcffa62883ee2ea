"""Run `taut demo` from nothing and write what it printed and how long it took.

python -m benchmarks.demo --out records/demo.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.environment import environment
from taut.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "taut", "demo"], cwd=folder, capture_output=True, text=True
        )
        seconds = time.monotonic() - start
        done.check_returncode()
        certificate = json.loads((Path(folder) / "runs/demo/certificate.json").read_text())
    print(done.stdout, f"{seconds:.1f} s")
    record = {
        "environment": environment(),
        "seconds": round(seconds, 1),
        "clean": 100 * certificate["clean_accuracy"],
        "certified": {eps: 100 * a for eps, a in certificate["certified_accuracy"].items()},
        "printed": done.stdout.splitlines(),
    }
    if out is not None:
        write_atomically(out, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
