"""What this library wants to cost at most, beside what was reached."""

import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from benchmarks.accuracy import Accuracy
from taut.benchmark import Row

Aim = dict[str, str | float]


def aims(
    rows: dict[str, list[Row]],
    found: Sequence[Accuracy],
    imports: dict[str, float],
    *,
    gpu: bool = False,
) -> list[Aim]:
    """Each aim with the worst that was reached; what was not measured is left out."""
    equal = 1.15 if gpu else 1.0
    large = [row for row in rows["steps"] if row.case == rows["steps"][-1].case]
    nets = [*large, *rows["stack"], *rows.get("deep", ())]
    every = [row for group in rows.values() for row in group]
    mine = [x for x in found if x.contender == "taut"]
    errors = [x.error for x in mine] + _of(every, "error")
    above = [x.above for x in mine] + _of(every, "above")
    listed = (
        ("training step of CIFAR-10 Large, over plain", 1.3, _of(large, "train_ratio")),
        ("3x3 layers of equal channels, over plain", equal, _of(rows["equal"], "train_ratio")),
        ("12 layers of 256 channels, a step over plain", 1.0, _of(rows["stack"], "train_ratio")),
        (
            "other layers, time added, over orthogonium's",
            1 / 6,
            added(rows["other"], "orthogonium"),
        ),
        ("other layers, time added, over the paper's", 1 / 15, added(rows["other"], "paper")),
        ("peak training memory, over plain", 1.25, _of(nets, "memory_ratio")),
        ("evaluation with cached weights, over plain", 1.02, _of(every, "eval_ratio")),
        ("evaluation of a frozen model, over plain", 1.02, _of(every, "frozen_ratio")),
        ("singular value farthest from 1", 1e-5, errors),
        ("largest singular value less 1", 3e-6, above),
        ("30 layers of 256 channels on a GPU, share added", 0.1, _shares(rows.get("deep", ()))),
        ("import taut after torch, seconds", 0.3, [imports["added"]]),
    )
    return [
        {"what": what, "aim": aim, "reached": max(values)} for what, aim, values in listed if values
    ]


def added(rows: Sequence[Row], peer: str) -> list[float]:
    """By case: what taut adds to the time of the plain layer, over what a peer adds."""
    ratios = []
    for case in dict.fromkeys(row.case for row in rows):
        times = {row.contender: row.train for row in rows if row.case == case}
        plain, ours, theirs = (times.get(name) for name in ("plain", "taut", peer))
        if plain and ours and theirs and theirs > plain:
            ratios.append((ours - plain) / (theirs - plain))
    return ratios


def import_seconds(repeats: int) -> dict[str, float]:
    """Medians of starting Python with torch, and with taut after it; taken in turns."""
    times: dict[str, list[float]] = {"import torch": [], "import torch, taut": []}
    for _ in range(repeats):
        for code, taken in times.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            taken.append(time.perf_counter() - start)
    torch, taut = map(median, times.values())
    return {"torch": torch, "taut": taut, "added": taut - torch}


def _of(rows: Sequence[Row], name: str) -> list[float]:
    """The numbers of taut's rows, those that were measured."""
    values = [vars(row)[name] for row in rows if row.contender == "taut"]
    return [value for value in values if value is not None]


def _shares(rows: Sequence[Row]) -> list[float]:
    return [1 - 1 / ratio for ratio in _of(rows, "train_ratio")]
