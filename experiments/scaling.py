"""What two processes gain over one on this machine, and whether sharing bases between them pays.

Example: python -m experiments.scaling --record records/scaling.json

Per model: a training step of one process with the whole batch, and of two (DDP, gloo) with half of
it each, in turns; one thread a process. Besides, what the orthonormal bases of raw tensors cost in
a step (its time less that of a step that is given them), and what it would take to compute half of
them in each process: their bytes exchanged forwards, and those of their gradients backwards.
"""

import argparse
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from experiments._models import net
from experiments._record import Record
from experiments._runner import Experiment, option
from taut.linalg.bases import orthonormal_basis
from taut.losses import MultiMargin
from taut.parametrizations import AbstractParametrization
from taut.parametrizations._cache import keeping_bases

CASES = {
    "MNIST Small, batch 128": ("small", (1, 28, 28), 128),
    "CIFAR-10 Small, batch 128": ("small", (3, 32, 32), 128),
    "CIFAR-10 Large, batch 32": ("large", (3, 32, 32), 32),
}


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(
        seed=0,
        cores=os.cpu_count(),
        threads_per_process=1,
        load_average=[round(load, 1) for load in os.getloadavg()],
        rounds=args.rounds,
    )
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        path = Path(folder, "rows.json")
        spawn(process, (args.rounds, path), nprocs=2)
        for row in json.loads(path.read_text()):
            record.add("rows", row)


def process(rank: int, rounds: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    rows = [measured(name, rank, rounds) for name in CASES]
    if rank == 0:
        out.write_text(json.dumps(rows))
    dist.destroy_process_group()


def measured(name: str, rank: int, rounds: int) -> dict[str, str | float]:
    architecture, shape, batch = CASES[name]
    torch.manual_seed(0)
    model = net(architecture, shape)
    together = DistributedDataParallel(model)
    images, labels = torch.rand(batch, *shape), torch.arange(batch) % 10
    half = slice(rank * batch // 2, (rank + 1) * batch // 2)
    owners = [m for m in model.modules() if isinstance(m, AbstractParametrization)]
    raws: list[Tensor] = [
        raw for owner in owners if owner.reads_bases for raw in owner.parameters()
    ]
    kept = [(raw, orthonormal_basis(raw).detach().requires_grad_()) for raw in raws]
    bases = torch.cat([basis.detach().flatten() for _, basis in kept])

    def given() -> None:
        with keeping_bases(kept):
            step(model, images, labels)
        if any(raw.grad is not None for raw in raws):
            raise RuntimeError("a basis that was given has been computed all the same")

    def exchange() -> None:
        parts = bases[: bases.numel() // 2 * 2].chunk(2)
        for _ in range(2):
            dist.all_gather([torch.empty_like(part) for part in parts], parts[rank])

    actions: dict[str, tuple[bool, Callable[[], None]]] = {
        "one": (False, lambda: step(model, images, labels)),
        "two": (True, lambda: step(together, images[half], labels[half])),
        "given": (False, given),
        "exchange": (True, exchange),
    }
    one, two, without, exchanged = taking_turns(actions, rank, rounds)
    numbers = {
        "one_process_ms": one,
        "two_processes_ms": two,
        "speedup": one / two,
        "bases_ms": one - without,
        "exchange_ms": exchanged,
        "saved_by_sharing_ms": (one - without) / 2 - exchanged,
    }
    return {"case": name} | {key: float(f"{value:.3g}") for key, value in numbers.items()}


def taking_turns(
    actions: dict[str, tuple[bool, Callable[[], None]]], rank: int, rounds: int
) -> list[float]:
    """Median milliseconds of each action, which both processes or only the first one do."""
    times: dict[str, list[float]] = {key: [] for key in actions}
    for _ in range(rounds + 1):  # the first one warms up
        for key, (both, action) in actions.items():
            dist.barrier()
            begin = time.perf_counter()
            if both or rank == 0:
                action()
            times[key].append(time.perf_counter() - begin)
    return [1000 * median(taken[1:]) for taken in times.values()]


def step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model.zero_grad()
    MultiMargin(eps_train=1.5)(model(images), labels).backward()


EXPERIMENT = Experiment(
    "scaling", __doc__, work, [option("--rounds", 7, "in which the ways take turns")], threads=1
)

if __name__ == "__main__":
    EXPERIMENT.main()
