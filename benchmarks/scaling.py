"""What two processes gain over one on this machine, and whether sharing bases between them pays.

    python -m benchmarks.scaling --out records/scaling.json

Per model: a training step of one process with the whole batch, and of two (DDP, gloo) with half of
it each, in turns; one thread a process. Besides, what the orthonormal bases of raw tensors cost in
a step (its time less that of a step that is given them), and what it would take to compute half of
them in each process: their bytes exchanged forwards, and those of their gradients backwards.
"""

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.environment import environment
from taut.files import write_atomically
from taut.linalg.bases import orthonormal_basis
from taut.losses import MultiMargin
from taut.models import ModelConfig, build
from taut.parametrizations import AbstractParametrization
from taut.parametrizations._base import keeping_bases

CASES = {
    "MNIST Small, batch 128": (ModelConfig("small"), 128),
    "CIFAR-10 Small, batch 128": (ModelConfig("small", input_shape=(3, 32, 32)), 128),
    "CIFAR-10 Large, batch 32": (ModelConfig("large", input_shape=(3, 32, 32)), 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        found = Path(folder, "rows.json")
        spawn(_process, (args.rounds, found), nprocs=2)
        rows = json.loads(found.read_text())
    record: dict[str, Any] = {
        "environment": environment(),
        "seed": 0,
        "cores": os.cpu_count(),
        "threads_per_process": 1,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "rounds": args.rounds,
        "rows": rows,
    }
    for row in rows:
        print(json.dumps(row))
    if args.out is not None:
        write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


def _process(rank: int, rounds: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    rows = [_measured(name, *case, rank, rounds) for name, case in CASES.items()]
    if rank == 0:
        out.write_text(json.dumps(rows))
    dist.destroy_process_group()


def _measured(
    name: str, config: ModelConfig, batch: int, rank: int, rounds: int
) -> dict[str, str | float]:
    torch.manual_seed(0)
    model = build(config)
    together = DistributedDataParallel(model)
    images, labels = torch.rand(batch, *config.input_shape), torch.arange(batch) % config.classes
    half = slice(rank * batch // 2, (rank + 1) * batch // 2)
    owners = [m for m in model.modules() if isinstance(m, AbstractParametrization)]
    raws: list[Tensor] = [
        raw for owner in owners if owner.reads_bases for raw in owner.parameters()
    ]
    kept = [(raw, orthonormal_basis(raw).detach().requires_grad_()) for raw in raws]
    bases = torch.cat([basis.detach().flatten() for _, basis in kept])

    def given() -> None:
        with keeping_bases(kept):
            _step(model, images, labels)
        if any(raw.grad is not None for raw in raws):
            raise RuntimeError("a basis that was given has been computed all the same")

    def exchange() -> None:
        parts = bases[: bases.numel() // 2 * 2].chunk(2)
        for _ in range(2):
            dist.all_gather([torch.empty_like(part) for part in parts], parts[rank])

    actions: dict[str, tuple[bool, Callable[[], None]]] = {
        "one": (False, lambda: _step(model, images, labels)),
        "two": (True, lambda: _step(together, images[half], labels[half])),
        "given": (False, given),
        "exchange": (True, exchange),
    }
    times: dict[str, list[float]] = {key: [] for key in actions}
    for _ in range(rounds + 1):  # the first one warms up
        for key, (both, action) in actions.items():
            dist.barrier()
            begin = time.perf_counter()
            if both or rank == 0:
                action()
            times[key].append(time.perf_counter() - begin)
    milliseconds = {key: 1000 * statistics.median(found[1:]) for key, found in times.items()}
    cost = milliseconds["one"] - milliseconds["given"]
    row = {
        "one_process_ms": milliseconds["one"],
        "two_processes_ms": milliseconds["two"],
        "speedup": milliseconds["one"] / milliseconds["two"],
        "bases_ms": cost,
        "exchange_ms": milliseconds["exchange"],
        "saved_by_sharing_ms": cost / 2 - milliseconds["exchange"],
    }
    return {"case": name} | {key: float(f"{value:.3g}") for key, value in row.items()}


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model.zero_grad()
    MultiMargin(eps_train=1.5)(model(images), labels).backward()


if __name__ == "__main__":
    main()
