"""What is timed, and how: in turns, so that all contenders see the same machine."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeVar, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments._runner import sentence
from experiments.speed._cases import Case, LayerCase

_SAMPLE = 5e-3  # seconds: what is shorter is repeated within one sample
_LEAST_ROUNDS = 3

_Name = TypeVar("_Name", bound=Hashable)
Work = Callable[[], object]
Precision = Literal["float32", "bfloat16"]


@final
@dataclass(frozen=True)
class TimingSettings:
    """How everything in one table is measured."""

    device: str = "cpu"  # "cpu", "cuda" or "cuda:1"
    dtype: Precision = "float32"  # "float32", or "bfloat16" for autocast to it
    repeats: int = 15  # rounds in which the contenders take turns
    seconds: float = 20.0  # no new round of a case after that, but three in any case
    threads: int = 1  # of torch on the CPU

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            raise ValueError(f"`dtype` must be float32 or bfloat16; got {self.dtype!r}.")
        for name, value in (("repeats", self.repeats), ("threads", self.threads)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")

    @property
    def place(self) -> torch.device:
        return torch.device(self.device)

    def autocast(self) -> AbstractContextManager:
        """The context of every forward."""
        enabled = self.dtype == "bfloat16"
        return torch.autocast(self.place.type, torch.bfloat16, enabled=enabled)


def inputs(case: Case, settings: TimingSettings) -> Tensor:
    """Random images of a case, seeded."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(case.batch, *case.input_shape, generator=generator).to(settings.place)


def training_run(module: nn.Module, case: Case, settings: TimingSettings) -> Work:
    """What training repeats.

    A layer runs forwards and backwards, to the gradients of input and parameters; a net makes a
    step: forward, multi-margin loss, backward, Adam.
    """
    module.train()
    x = inputs(case, settings)
    if isinstance(case, LayerCase):
        return layer_run(module, x.requires_grad_(), settings)
    labels = torch.arange(case.batch, device=x.device) % 10
    optimiser = torch.optim.Adam(module.parameters(), fused=True)

    def step() -> None:
        optimiser.zero_grad()
        with settings.autocast():
            loss = F.multi_margin_loss(module(x).flatten(1).float(), labels)
        loss.backward()
        optimiser.step()

    return step


def layer_run(layer: nn.Module, x: Tensor, settings: TimingSettings) -> Work:
    with torch.no_grad(), settings.autocast():
        slope = torch.randn_like(layer(x))

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        with settings.autocast():
            y = layer(x)
        y.backward(slope)

    return run


def evaluation_run(module: nn.Module, case: Case, settings: TimingSettings) -> Work:
    """A forward; gradients are to be disabled, and caches opened, around all of its repetitions."""
    module.eval()
    x = inputs(case, settings)

    def forward() -> None:
        with settings.autocast():
            module(x)

    return forward


def alternate(
    runs: Mapping[_Name, Work],
    device: torch.device,
    *,
    repeats: int = 15,
    seconds: float = math.inf,
) -> tuple[dict[_Name, list[float]], dict[_Name, str]]:
    """Times each run once per round, in a rotating order; a GPU by its own events.

    No round begins after so many seconds, but three in any case. Returns seconds by name, one entry
    per round, and by name why a run failed when it was warmed up.
    """
    counts: dict[_Name, int] = {}
    failed: dict[_Name, str] = {}
    for name, run in runs.items():
        try:
            run()
            took = seconds_of(run, device)
        except Exception as error:  # a foreign layer may raise anything; it becomes a row in words
            failed[name] = note(error)
        else:
            counts[name] = max(1, math.ceil(_SAMPLE / max(took, 1e-7)))
    names = list(counts)
    times: dict[_Name, list[float]] = {name: [] for name in names}
    start = time.monotonic()
    for turn in range(repeats):
        if turn >= _LEAST_ROUNDS and time.monotonic() - start > seconds:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)] if names else ():
            times[name].append(seconds_of(runs[name], device, counts[name]))
    return times, failed


def seconds_of(run: Work, device: torch.device, count: int = 1) -> float:
    """Seconds that one run takes, over `count` of them in a row."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) / count
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    for _ in range(count):
        run()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1e3 / count


def median_ratio(times: list[float], others: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return median(a / b for a, b in zip(times, others, strict=True))


def note(error: BaseException) -> str:
    """An error in a row of a table; with its type where its words are not meant for users."""
    known = isinstance(error, ValueError | NotImplementedError | ImportError)
    return sentence(error) if known else f"{type(error).__name__}: {sentence(error)}"
