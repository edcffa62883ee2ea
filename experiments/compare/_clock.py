"""What a method is charged: CPU time of the process on a CPU, wall time on a GPU."""

import time
from dataclasses import dataclass
from typing import NamedTuple, final

import torch


class Spent(NamedTuple):
    """Seconds."""

    cpu: float = 0.0  # of the process, all its threads together
    wall: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        return Spent(self.cpu + other.cpu, self.wall + other.wall)

    def since(self, begin: "Spent") -> "Spent":
        return Spent(self.cpu - begin.cpu, self.wall - begin.wall)


@final
@dataclass(frozen=True)
class Clock:
    """Time on a device.

    On a CPU the budget is the CPU time of the process over its threads, so that other work on the
    machine takes little from it. On a GPU it is wall time.
    """

    device: torch.device
    threads: int

    @property
    def on_gpu(self) -> bool:
        return self.device.type != "cpu"

    def read(self) -> Spent:
        """The time now, after the device has finished its work."""
        if self.on_gpu:
            getattr(torch, self.device.type).synchronize()
        return Spent(time.process_time(), time.perf_counter())

    def charge(self, spent: Spent) -> float:
        """The seconds of the budget that are spent."""
        return spent.wall if self.on_gpu else spent.cpu / self.threads
