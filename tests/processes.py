"""Scripts that run in two processes, and write down what they found."""

import json
import os
import subprocess
import sys
from pathlib import Path


def both_say(worker: Path, folder: Path) -> list[dict[str, str]]:
    """What each of two processes found, by the name of the check; empty if it holds."""
    settings = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(worker), str(folder)]
    processes = [
        subprocess.Popen(
            command, env=os.environ | settings | {"RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=150)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]
