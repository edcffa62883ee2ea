"""What is timed, and how: in turns, so that all contenders see the same machine."""

import math
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeVar, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments._runner import sentence
from experiments.speed._cases import Case, LayerCase

_SAMPLE = 5e-3  # seconds: what is shorter is repeated within one sample
_SHORT = 0.1  # seconds: what is shorter is run more than twice before it is timed
_LEAST_ROUNDS = 3

_Name = TypeVar("_Name", bound=Hashable)
Work = Callable[[], object]
Precision = Literal["float32", "tf32", "bfloat16"]


@final
@dataclass(frozen=True)
class TimingSettings:
    """How everything in one table is measured."""

    device: str = "cpu"  # "cpu", "cuda" or "cuda:1"
    # "float32"; "tf32", to which a GPU may round the factors of products; "bfloat16" for autocast.
    dtype: Precision = "float32"
    repeats: int = 15  # rounds in which the contenders take turns
    seconds: float = 2.0  # no new round of a run after that time of its own, but three of each
    threads: int = 1  # of torch on the CPU

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            raise ValueError(f"`dtype` must be float32, tf32 or bfloat16; got {self.dtype!r}.")
        if self.dtype == "tf32" and self.place.type != "cuda":
            raise ValueError("`dtype` must be float32 or bfloat16 on a CPU; got 'tf32'.")
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

    @contextmanager
    def precision(self) -> Iterator[None]:
        """The context of all that is measured: TF32 in every product of float32, or in none."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        allowed = self.dtype != "float32"
        _set_precision("high" if allowed else "highest", convolutions=allowed)
        try:
            yield
        finally:
            _set_precision(before[0], convolutions=before[1])


def _set_precision(products: str, *, convolutions: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later versions of torch have another way to say it
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def inputs(
    case: Case,
    settings: TimingSettings,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Random images of a case, seeded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(case.batch, *case.input_shape, generator=generator)
    return x.to(settings.place).contiguous(memory_format=memory_format)


def training_run(
    module: nn.Module,
    case: Case,
    settings: TimingSettings,
    x: Tensor | None = None,
    optimiser: torch.optim.Optimizer | None = None,
) -> Work:
    """What training repeats, on some images if none are given.

    A layer runs forwards and backwards, to the gradients of input and parameters; a net makes a
    step: forward, multi-margin loss, backward, Adam unless another optimiser is given.
    """
    module.train()
    x = inputs(case, settings) if x is None else x
    if isinstance(case, LayerCase):
        return layer_run(module, x.requires_grad_(), settings)
    labels = torch.arange(case.batch, device=x.device) % 10
    optimiser = optimiser or torch.optim.Adam(module.parameters(), fused=True)

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


def evaluation_run(
    module: nn.Module, case: Case, settings: TimingSettings, x: Tensor | None = None
) -> Work:
    """A forward; gradients are to be disabled, and caches opened, around all of its repetitions."""
    module.eval()
    x = inputs(case, settings) if x is None else x

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
    took, failed = warm_up(runs, device)
    return in_turns(runs, took, device, repeats=repeats, seconds=seconds), failed


def warm_up(
    runs: Mapping[_Name, Work], device: torch.device
) -> tuple[dict[_Name, float], dict[_Name, str]]:
    """Seconds by name, the least of some after a first run; and by name why a run failed."""
    took: dict[_Name, float] = {}
    failed: dict[_Name, str] = {}
    for name, run in runs.items():
        try:
            run()
            took[name] = seconds_of(run, device)
            if took[name] < _SHORT:
                took[name] = min(took[name], *(seconds_of(run, device) for _ in range(2)))
        except Exception as error:  # a foreign layer may raise anything; it becomes a row in words
            failed[name] = note(error)
    return took, failed


def in_turns(
    runs: Mapping[_Name, Work],
    took: Mapping[_Name, float],
    device: torch.device,
    *,
    repeats: int = 15,
    seconds: float = math.inf,
    each: float = math.inf,
) -> dict[_Name, list[float]]:
    """The times of the runs that have been warmed up, one per round, in a rotating order.

    No round begins after so many seconds, and a run that has taken `each` of its own rests for the
    other rounds; but three rounds in any case.
    """
    counts = {name: max(1, math.ceil(_SAMPLE / max(took[name], 1e-7))) for name in took}
    times: dict[_Name, list[float]] = {name: [] for name in took}
    start = time.monotonic()
    for turn in range(repeats):
        if turn >= _LEAST_ROUNDS and time.monotonic() - start > seconds:
            break
        active = [
            name
            for name, taken in times.items()
            if turn < _LEAST_ROUNDS or (sum(taken) * counts[name] <= each and len(taken) == turn)
        ]
        for name in active[turn % len(active) :] + active[: turn % len(active)] if active else ():
            times[name].append(seconds_of(runs[name], device, counts[name]))
    return times


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
    """The median over the rounds that both took part in of the ratio within a round."""
    return median(a / b for a, b in zip(times, others, strict=False))


def note(error: BaseException) -> str:
    """An error in a row of a table; with its type where its words are not meant for users."""
    known = isinstance(error, ValueError | NotImplementedError | ImportError)
    return sentence(error) if known else f"{type(error).__name__}: {sentence(error)}"
