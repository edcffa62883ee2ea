"""What docs/speed.md shows: groups of cases, what taut wants to cost at most, and the tables."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from experiments._record import RECORDS, ROOT, read
from experiments._show import markdown, number, table
from experiments.speed._rows import SpeedRow
from experiments.speed._spectra import Accuracy

RECORD = RECORDS / "speed.json"
CASES = {"MNIST Large": "large-mnistb128", "CIFAR-10 Large": "large-cifar10b128"}
PAPER = ROOT / "experiments" / "speed" / "paper_bcop.py"
_OTHERS = ("taut", "orthogonium")


class Group(NamedTuple):
    """Cases, and who takes part beside plain layers and, if `paper`, the paper's algorithm.

    Without names every contender takes part.
    """

    cases: tuple[str, ...]
    contenders: tuple[str, ...] = ()
    paper: bool = False


GROUPS = {
    "steps": Group(tuple(CASES.values()), (*_OTHERS, "deel-torchlip"), paper=True),
    "equal": Group(
        (
            *("128x128x3@16b32", "256x256x3@16b16", "512x512x3@8b64", "1024x1024x3@8b64"),
            *("128x128x3@32b32", "256x256x3@16b64"),
        ),
        _OTHERS,
    ),
    "stack": Group(("stack-12x256@16b16",), _OTHERS),
    "other": Group(
        (
            *("128x256x3@16b16", "256x128x3@16b16", "256x512x3@8b16", "128x256x4s2@16b16"),
            *("256x512x4s2@16b4", "128x128x3@4b4", "256x256x3@4b4", "512x512x3@4b4"),
            *("512x512b128", "4096x512b128"),
        ),
        _OTHERS,
        paper=True,
    ),
}
GPU_GROUPS = {"deep": Group(("stack-30x256@16b64",), _OTHERS)}
# How times grow over channels, kernel size, batch and depth.
GROWTH = Group(
    (
        *(f"{c}x{c}x3@16b16" for c in (32, 64, 128, 256, 512)),
        *(f"64x64x{k}@16b16" for k in (1, 2, 4, 5, 7)),
        *(f"128x128x3@16b{b}" for b in (1, 4, 64)),
        *("128x256x3@16b16", "256x128x3@16b16", "128x256x4s2@16b16", "256x256x3@4b4", "4096x512"),
        *(f"stack-{n}x64@16b16" for n in (1, 2, 4, 8, 16)),
        *("small-mnist", "large-mnist", "large-cifar10", "stack-12x256@16b16"),
    )
)
QUICK_GROUPS = {
    "steps": Group(("small-mnistb8", "small-cifar10b8"), _OTHERS, paper=True),
    "equal": Group(("8x8x3@8b2", "16x16x3@8b2"), ("taut",)),
    "stack": Group(("stack-2x8@8b2",), ("taut",)),
    "other": Group(("8x16x3@8b2", "32x16b8"), _OTHERS, paper=True),
}
QUICK_GROWTH = Group(
    ("32x32x3@16b8", "64x64x3@16b8", "128x128x3@16b8", "64x128x4s2@16b8", "1024x256", "small-mnist")
)


def steps(rows: Sequence[SpeedRow]) -> dict[str, dict[str, float | None]]:
    """A training step of the paper's Large: seconds, the ratio of taut to plain, its error."""
    titles = {name: title for title, name in CASES.items()}
    nets = {}
    for case in dict.fromkeys(row.case for row in rows):
        mine = {row.contender: row for row in rows if row.case == case}
        times = {name: row.train for name, row in mine.items() if row.train is not None}
        ours = {"ratio": mine["taut"].train_ratio, "error": mine["taut"].error}
        nets[titles.get(case, case)] = times | ours
    return nets


def aims(
    rows: Mapping[str, Sequence[SpeedRow]],
    accuracies: Sequence[Accuracy],
    imports: Mapping[str, float],
    *,
    gpu: bool = False,
) -> list[dict[str, str | float]]:
    """Each aim with the worst that was reached; what was not measured is left out."""
    large = [row for row in rows["steps"] if row.case == rows["steps"][-1].case]
    deep = rows.get("deep", ())
    nets = [*large, *rows["stack"], *deep]
    every = [row for group in rows.values() for row in group]
    spectra = [*every, *accuracies]
    other = rows["other"]
    listed = (
        ("training step of CIFAR-10 Large, over plain", 1.3, _ours(large, "train_ratio")),
        (
            "3x3 layers of equal channels, over plain",
            1.15 if gpu else 1.0,
            _ours(rows["equal"], "train_ratio"),
        ),
        ("12 layers of 256 channels, a step over plain", 1.0, _ours(rows["stack"], "train_ratio")),
        ("other layers, time added, over orthogonium's", 1 / 6, added(other, "orthogonium")),
        ("other layers, time added, over the paper's", 1 / 15, added(other, "paper")),
        ("peak training memory, over plain", 1.25, _ours(nets, "memory_ratio")),
        ("evaluation with cached weights, over plain", 1.02, _ours(every, "eval_ratio")),
        ("evaluation of a frozen model, over plain", 1.02, _ours(every, "frozen_ratio")),
        ("singular value farthest from 1", 1e-5, _ours(spectra, "error")),
        ("largest singular value less 1", 3e-6, _ours(spectra, "above")),
        (
            "30 layers of 256 channels on a GPU, share added",
            0.1,
            [1 - 1 / ratio for ratio in _ours(deep, "train_ratio")],
        ),
        ("import taut after torch, seconds", 0.3, [imports["added"]]),
    )
    return [
        {"what": what, "aim": aim, "reached": max(values)} for what, aim, values in listed if values
    ]


def added(rows: Sequence[SpeedRow], peer: str) -> list[float]:
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


def _ours(rows: Sequence[SpeedRow | Accuracy], name: str) -> list[float]:
    """The numbers of taut's rows, those that were measured."""
    values = [vars(row)[name] for row in rows if row.contender == "taut"]
    return [value for value in values if value is not None]


def aims_table() -> str:
    columns = {"what": "{what}", "aim, at most": "{aim:.3g}", "reached": "{reached:.3g}"}
    return table(read(RECORD).get("aims", ()), columns)


def steps_table() -> str:
    rows = []
    for net, times in read(RECORD)["steps"].items():
        ratio, error = times.pop("ratio"), times.pop("error")
        for name, seconds in times.items():
            own = (ratio, f"{error:.1e}") if name == "taut" else (seconds / times["plain"], "-")
            rows.append((net, name, f"{1e3 * seconds:.1f}", f"{own[0]:.2f}", own[1]))
    return markdown(("net", "contender", "step, ms", "over plain", "farthest from 1"), rows)


def group_table(name: str) -> str:
    header = (
        *("case", "contender", "train, ms", "floor, ms", "over plain", "eval over plain"),
        *("frozen over plain", "memory over plain", "farthest from 1", "above 1"),
    )
    rows = []
    for row in read(RECORD).get("rows", {}).get(name, ()):
        if row["train"] is not None:
            times = (number(row[x], 1e3, ".1f") for x in ("train", "floor"))
            ratios = (number(row[f"{x}_ratio"]) for x in ("train", "eval", "frozen", "memory"))
            spectrum = number(row["error"], form=".1e"), number(row["above"], form="+.1e")
            rows.append((row["case"], row["contender"], *times, *ratios, *spectrum))
    return markdown(header, rows)


def accuracy_table() -> str:
    columns = {
        "case": "{case}",
        "contender": "{contender}",
        "parameters": "{raws}",
        "farthest from 1": "{error:.1e}",
        "above 1": "{above:+.1e}",
    }
    return table(read(RECORD).get("accuracy", ()), columns)


def machine_table() -> str:
    where: dict[str, Any] = read(RECORD)["environment"]
    names = ("processor", "threads", "gpu", "torch", "orthogonium", "deel-torchlip", "date")
    rows = [(name, str(where[name])) for name in names if name in where]
    return markdown(("", ""), [*rows, ("command", f"`{where['command']}`")])


TABLES: dict[str, Callable[[], str]] = {
    "aims": aims_table,
    "steps": steps_table,
    "nets": partial(group_table, "steps"),
    **{name: partial(group_table, name) for name in ("equal", "stack", "other")},
    "accuracy": accuracy_table,
    "machine": machine_table,
}
