"""Peak memory of a training step, in a process of its own.

`python -m experiments.speed._memory REQUEST` (JSON, see `peak_memory`) prints the bytes.
"""

import ctypes
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from experiments._record import ROOT
from experiments.speed._cases import Case, LayerCase, parse_case
from experiments.speed._contenders import contenders
from experiments.speed._timing import TimingSettings, Work, training_run

_STEPS = 3
_STATUS = Path("/proc/self/status")


def peak_memory(
    case: Case, contender: str, settings: TimingSettings, files: Sequence[Path] = ()
) -> int:
    """Bytes that training takes at its peak: parameters, gradients, optimiser, activations.

    Measured in a fresh process. On a GPU it is what torch allocated. On a CPU it is the growth of
    the peak resident set over the state before the first step, and the bytes of the parameters.
    """
    request = {
        "case": case.name,
        "contender": contender,
        "settings": asdict(settings),
        "files": [str(file.absolute()) for file in files],
    }
    command = [sys.executable, "-m", "experiments.speed._memory", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"memory was not measured: {words[-1]}")
    return int(done.stdout)


def main() -> None:
    """Measures one request and prints bytes."""
    request = json.loads(sys.argv[1])
    settings, case = TimingSettings(**request["settings"]), parse_case(request["case"])
    torch.set_num_threads(settings.threads)
    chosen = contenders([Path(file) for file in request["files"]])[request["contender"]]
    torch.manual_seed(0)
    module = chosen.build(case).to(settings.place)
    measure = _on_gpu if settings.place.type == "cuda" else _on_cpu
    sys.stdout.write(f"{measure(module, case, settings)}\n")


def _on_gpu(module: nn.Module, case: Case, settings: TimingSettings) -> int:
    torch.cuda.reset_peak_memory_stats(settings.place)
    run = training_run(module, case, settings)
    for _ in range(_STEPS):
        run()
    return torch.cuda.max_memory_allocated(settings.place)


def _on_cpu(module: nn.Module, case: Case, settings: TimingSettings) -> int:
    _load_libraries(settings)
    return peak_growth(module, training_run(module, case, settings))


def peak_growth(module: nn.Module, run: Work) -> int:
    """Bytes by which a run raises the peak of a process that is fresh, and those of its module."""
    _forget_peak()
    before = _peak()
    for _ in range(_STEPS):
        run()
    kept = sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers()))
    return kept + _peak() - before


def _load_libraries(settings: TimingSettings) -> None:
    """Runs a small plain layer, so that code which is loaded on first use does not count."""
    case = LayerCase(4, 4, 3, size=8, batch=1)
    training_run(nn.Conv2d(4, 4, 3).to(settings.place), case, settings)()


def _forget_peak() -> None:
    """Hands free memory back and starts a new peak, where the system can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: then growth counts from the old peak
        return


def _peak() -> int:
    """The largest resident set so far, in bytes."""
    if _STATUS.exists():
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
