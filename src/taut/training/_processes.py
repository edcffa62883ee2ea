"""Several processes that train one model: their number, and what they agree on."""

import atexit
import gc
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from taut.data import Share
from taut.training._devices import fabric_options


@final
@dataclass(frozen=True)
class Launch:
    """The number of training processes, one per device.

    `torchrun` and Slurm's `srun` set the numbers themselves: leave the defaults, or repeat theirs.

    Args:
        devices: processes on each machine; all but the first are started from here.
        nodes: machines; the command is started on each of them.
        workers: processes beside each of them that decode images as they are needed; None reads
            the data set into memory.
        share_weights: whether each process computes the weights of some layers, and gets those of
            the others from the other processes; see :func:`taut.shared_weights`.

    Raises:
        ValueError: if a number is below 1, or `workers` below 0.

    Example:
        >>> Launch(devices=2).resolve()
        Launch(devices=2, nodes=1, workers=None, share_weights=False)
    """

    devices: int = 1
    nodes: int = 1
    workers: int | None = None
    share_weights: bool = False

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"`workers` must be at least 0; got {self.workers}.")

    def resolve(self) -> "Launch":
        """These numbers, or those of `torchrun` or Slurm if it started this process.

        Raises:
            ValueError: if the two contradict each other.
        """
        starter, here, everywhere = _started()
        if not starter:
            return self
        started = replace(self, devices=here, nodes=everywhere // here)
        if (self.devices, self.nodes) not in ((1, 1), (started.devices, started.nodes)):
            raise ValueError(
                f"`devices` and `nodes` must be those of {starter}, {here} and {started.nodes}, or "
                f"be left out; got {self.devices} and {self.nodes}."
            )
        return started


def _started() -> tuple[str, int, int]:
    """The launcher, and the number of processes it started: on this machine, and in all."""
    if torch.distributed.is_torchelastic_launched():
        return "torchrun", int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    everywhere = int(os.environ.get("SLURM_NTASKS") or 1)
    if everywhere > 1:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        if SLURMEnvironment.detect():  # and not in a shell of the job
            return "Slurm", everywhere // int(os.environ.get("SLURM_NNODES") or 1), everywhere
    return "", 1, 1


def _leave() -> None:
    """End the process group: its threads abort a process in which they outlive Python."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    gc.collect()  # wrapped models, in cycles, hold it too


@final
class OtherProcessFailed(RuntimeError):
    """The first process failed while others waited for it; its own message says why."""


def is_first_process() -> bool:
    """Whether this process writes and prints: the first one, by its environment.

    Example:
        >>> is_first_process()
        True
    """
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(name) or 0) == 0 for name in ranks)


@final
class Processes:
    """The processes of one training, started here unless a launcher has started them."""

    def __init__(self, launch: Launch, device: torch.device, precision: Any) -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            needs = "taut.training needs lightning-fabric: pip install 'taut[cli]'."
            raise ImportError(needs) from error
        launch, gpus = launch.resolve(), torch.cuda.device_count()
        if device.type == "cuda" and launch.devices > gpus:
            raise ValueError(
                f"`devices` must be at most {gpus}, the GPUs that torch finds; got "
                f"{launch.devices}."
            )
        several = launch.devices * launch.nodes > 1
        accelerator, strategy = fabric_options(device)
        self.fabric = Fabric(
            accelerator=accelerator,
            strategy="ddp" if several else strategy,
            devices=launch.devices,
            num_nodes=launch.nodes,
            precision=precision,
        )
        if several:
            self.fabric.launch()
            atexit.register(_leave)
        self.share = Share(self.fabric.global_rank, self.fabric.world_size)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.share.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of everyone's values."""
        if self.share.world == 1:
            return values
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    def by_first(self, action: Callable[[], object]) -> None:
        """Let the first process act while all others wait; if it fails, all fail."""
        if self.share.world == 1:
            action()
            return
        failure: Exception | None = None
        if self.first:
            try:
                action()
            except Exception as error:
                failure = error
        failed = self.total(torch.tensor(float(failure is not None), device=self.fabric.device))
        if failure is not None:
            raise failure
        if failed:
            raise OtherProcessFailed("The first process failed; its message says why.")

    def require_equal(self, what: str, *values: bytes | Tensor) -> None:
        """Refuse to go on if `values`, called `what`, are not bitwise equal in all processes."""
        if self.share.world == 1:
            return
        digest = hashlib.sha256()
        for value in values:
            if isinstance(value, Tensor):
                flat = value.detach().cpu().contiguous().reshape(-1)
                value = flat.view(torch.uint8).numpy().tobytes()
            digest.update(value)
        mine = torch.tensor([*digest.digest()], dtype=torch.float32, device=self.fabric.device)
        # Equal to the mean of all everywhere, and so equal to each other.
        differs = (self.total(mine) != self.share.world * mine).any().float()
        if self.total(differs):
            raise RuntimeError(f"{what} differ from process to process; the run stops here.")
