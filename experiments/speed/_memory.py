"""Peak memory of a training step; on a CPU in a process of its own.

`python -m experiments.speed._memory REQUEST` (JSON, see `peak_memory`) prints the bytes.
"""

import ctypes
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from experiments._record import ROOT
from experiments.speed._cases import Case, LayerCase, parse_case
from experiments.speed._contenders import contenders
from experiments.speed._timing import TimingSettings, Work, training_run
from experiments.speed._ways import Way

_STEPS = 3
_STATUS = Path("/proc/self/status")


def peak_memory(case: Case, way: Way, settings: TimingSettings, files: Sequence[Path] = ()) -> int:
    """Bytes that training takes at its peak: parameters, gradients, optimiser, activations.

    On a GPU it is what torch allocates. On a CPU it is measured in a fresh process, as the growth
    of the peak resident set over the state before the first step, and the bytes of the parameters.
    """
    if settings.place.type == "cuda":
        return _on_gpu(case, way, settings, files)
    request = {
        "case": case.name,
        "way": way,
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
    module, run = _made(case, Way(*request["way"]), settings, map(Path, request["files"]))
    _load_libraries(settings)
    sys.stdout.write(f"{peak_growth(module, run)}\n")


def _made(
    case: Case, way: Way, settings: TimingSettings, files: Iterable[Path]
) -> tuple[nn.Module, Work]:
    """What is trained, and a step of its training."""
    chosen = contenders(tuple(files))[way.contender]
    module = way.build(chosen, case, settings)
    optimiser = chosen.optimiser(module)
    return module, training_run(module, case, settings, way.images(case, settings), optimiser)


def _on_gpu(case: Case, way: Way, settings: TimingSettings, files: Sequence[Path]) -> int:
    """The growth of what torch has allocated, with what others hold left out."""
    gc.collect()
    before = torch.cuda.memory_allocated(settings.place)
    torch.cuda.reset_peak_memory_stats(settings.place)
    _, run = _made(case, way, settings, files)
    for _ in range(_STEPS):
        run()
    return torch.cuda.max_memory_allocated(settings.place) - before


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
