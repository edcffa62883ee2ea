"""Times of several contenders, taken in turns so that all of them see the same machine."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import TypeVar

import torch

_SAMPLE = 5e-3  # seconds: what is shorter is repeated within one sample
_LEAST_ROUNDS = 3

_Name = TypeVar("_Name", bound=Hashable)
Run = Callable[[], object]


def alternate(
    runs: Mapping[_Name, Run],
    device: torch.device,
    *,
    repeats: int = 15,
    seconds: float = math.inf,
) -> tuple[dict[_Name, list[float]], dict[_Name, str]]:
    """Times each run once per round, in a rotating order.

    Args:
        runs: what to time, by name.
        device: where it works; a GPU is timed by its own events.
        repeats: rounds.
        seconds: no new round after that, but three in any case.

    Returns:
        Seconds by name, one entry per round, and by name why a run failed when it was warmed up.

    Example:
        >>> times, failed = alternate({"a": lambda: None}, torch.device("cpu"), repeats=3)
        >>> len(times["a"]), failed
        (3, {})
    """
    counts: dict[_Name, int] = {}
    failed: dict[_Name, str] = {}
    for name, run in runs.items():
        try:
            run()
            took = seconds_of(run, device)
        except Exception as error:  # a foreign layer may raise anything; it becomes a row in words
            failed[name] = sentence(error)
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


def seconds_of(run: Run, device: torch.device, count: int = 1) -> float:
    """Seconds that one run takes, over `count` of them in a row.

    Example:
        >>> seconds_of(lambda: None, torch.device("cpu"), 10) < 1
        True
    """
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
    """The median over rounds of the ratio within a round.

    Example:
        >>> median_ratio([2.0, 4.0, 9.0], [1.0, 2.0, 1.0])
        2.0
    """
    return median(a / b for a, b in zip(times, others, strict=True))


def sentence(error: BaseException) -> str:
    r"""An error on one line, for a row of a table.

    Example:
        >>> sentence(ValueError("no such\n layer"))
        'no such layer'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, ValueError | NotImplementedError | ImportError)
    return text if known else f"{type(error).__name__}: {text}"
