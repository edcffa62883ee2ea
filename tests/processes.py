"""Scripts that run in two processes, and write down what their checks found."""

import gc
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from torch import distributed

RANK = int(os.environ.get("RANK", 0))
_CHECKS: dict[str, Callable[[], None]] = {}


def both_say(worker: Path, folder: Path) -> list[dict[str, str]]:
    """What each of two processes found, by the name of the check; empty if it holds."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    settings = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
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


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Add a check."""
    _CHECKS[function.__name__] = function
    return function


def run_checks() -> None:
    """In a script: run all checks, or those named, and write what each found to a folder."""
    folder, *only = sys.argv[1:]
    store = f"file://{Path(folder).absolute()}/store"
    distributed.init_process_group("gloo", init_method=store, rank=RANK, world_size=2)
    found = {}
    for name, function in _CHECKS.items():
        if only and name not in only:
            continue
        try:
            function()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
            break  # the other process may be somewhere else by now
    Path(folder, f"said-{RANK}.json").write_text(json.dumps(found))
    leave()


def leave() -> None:
    """End the process group: its threads abort a process in which they outlive Python."""
    distributed.destroy_process_group()
    gc.collect()  # wrapped models, in cycles, hold it too
