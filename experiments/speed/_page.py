"""What docs/speed.md shows: what taut wants to cost at most, what it costs, and the tables."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from experiments._record import RECORDS, read
from experiments._show import NOTHING, markdown, number, table
from experiments.speed._groups import CASES, EQUAL, STACK
from experiments.speed._rows import SpeedRow
from experiments.speed._spectra import Accuracy

RECORD = RECORDS / "speed.json"
GPU_RECORDS = "speed-cuda*.json"  # in the same folder
LARGE = CASES["CIFAR-10 Large"]
_NAMES = {name: title for title, name in CASES.items()}

Target = dict[str, str | float]


def targets(
    rows: Mapping[str, Sequence[SpeedRow]],
    accuracies: Sequence[Accuracy],
    imports: Mapping[str, float],
    *,
    exact: bool = True,
) -> list[Target]:
    """Each target with the worst that was reached; what was not measured is left out.

    Singular values count where arithmetic is `exact`, which is float32.
    """
    ours = {row.case: row for group in rows.values() for row in group if row.contender == "taut"}
    on_gpu = any(row.launches is not None for row in ours.values())
    nets = [ours[case] for case in (LARGE, STACK) if case in ours]
    spectra = [*ours.values(), *(x for x in accuracies if x.contender == "taut")] if exact else []
    timed = () if on_gpu else _timed(ours)
    listed = (
        *timed,
        *_counted(ours),
        ("peak memory of training these nets", 1.0, [row.memory_ratio for row in nets]),
        ("singular value farthest from 1", 1e-5, [x.error for x in spectra]),
        ("largest singular value less 1", 3e-6, [x.above for x in spectra]),
        ("import taut after torch, seconds", 0.3, [imports["added"]]),
    )
    reached = ((what, most, [x for x in values if x is not None]) for what, most, values in listed)
    return [
        {"what": what, "target": most, "reached": max(values)}
        for what, most, values in reached
        if values
    ]


def _timed(ours: Mapping[str, SpeedRow]) -> list[tuple[str, float, list[float | None]]]:
    """Times over the fastest plain ones, on two threads."""

    def of(case: str, name: str) -> list[float | None]:
        return [vars(ours[case])[name]] if case in ours else []

    return [
        ("training step, CIFAR-10 Large, batch 128", 1.25, of(LARGE, "train_ratio")),
        ("evaluation, CIFAR-10 Large, frozen", 1.10, of(LARGE, "frozen_ratio")),
        ("evaluation, CIFAR-10 Large, weights cached", 1.10, of(LARGE, "eval_ratio")),
        *(
            (f"3x3 layer, {case.split('x')[0]} channels", most, of(case, "train_ratio"))
            for case, most in EQUAL.items()
        ),
        ("training step, 12 layers of 256 channels", 1.0, of(STACK, "train_ratio")),
    ]


def _counted(ours: Mapping[str, SpeedRow]) -> list[tuple[str, float, list[float | None]]]:
    """What a training step asks of a GPU."""
    nets = [row for case, row in ours.items() if case in (LARGE, STACK)]
    return [("waits for the GPU in a training step", 0, [row.syncs for row in nets])]


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


def targets_table() -> str:
    columns = {"what": "{what}", "target, at most": "{target:.3g}", "reached": "{reached:.3g}"}
    return table(read(RECORD).get("targets", ()), columns)


def nets_table(*groups: str) -> str:
    """A line for each contender of each net."""
    header = (
        *("net", "contender", "fastest with", "step, ms", "over plain", "evaluation over plain"),
        *("frozen over plain", "memory over plain", "farthest from 1"),
    )
    return markdown(header, (_net_cells(row) for row in _rows(read(RECORD), groups)))


def _net_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    ratios = (number(row[f"{x}_ratio"]) for x in ("train", "eval", "frozen", "memory"))
    return (
        *(_NAMES.get(str(row["case"]), str(row["case"])), row["contender"], row["train_setting"]),
        *(number(row["train"], 1e3, ".1f"), *ratios, number(row["error"], form=".1e")),
    )


def layers_table(group: str) -> str:
    """A line for each layer: taut, and the peers that took part, over the fastest plain layer."""
    rows = list(_rows(read(RECORD), [group]))
    peers = [x for x in _unique(row["contender"] for row in rows) if x not in ("plain", "taut")]
    header = (
        *("layer", "plain, ms", "fastest with", "taut, ms", "fastest with", "taut over plain"),
        *("evaluation over plain", "frozen over plain", *(f"{x} over plain" for x in peers)),
        "farthest from 1",
    )
    lines = []
    for case in _unique(row["case"] for row in rows):
        mine = {row["contender"]: row for row in rows if row["case"] == case}
        if not {"plain", "taut"} <= set(mine):
            continue
        times: list[str] = []
        for name in ("plain", "taut"):
            times += number(mine[name]["train"], 1e3, ".1f"), mine[name]["train_setting"] or "-"
        ours = mine["taut"]
        ratios = [number(ours[f"{x}_ratio"]) for x in ("train", "eval", "frozen")]
        others = [number(mine[x]["train_ratio"]) if x in mine else "-" for x in peers]
        lines.append((case, *times, *ratios, *others, number(ours["error"], form=".1e")))
    return markdown(header, lines)


def gpu_table() -> str:
    """Nets and layers on GPUs, a table for each record that there is."""
    header = (
        *("case", "contender", "fastest with", "step, ms", "step", "evaluation", "frozen"),
        *("memory", "launches", "waits"),
    )
    tables = []
    for path in sorted(RECORD.parent.glob(GPU_RECORDS)):
        record, lines = read(path), []
        for row in _rows(record, record.get("rows", ())):
            ratios = (number(row[f"{x}_ratio"]) for x in ("train", "eval", "frozen", "memory"))
            counts = (number(row[x], form="d") for x in ("launches", "syncs"))
            step = (row["train_setting"] or "-", number(row["train"], 1e3, ".2f"))
            lines.append((row["case"], row["contender"], *step, *ratios, *counts))
        tables.append(f"In {record['settings']['dtype']}:\n\n{markdown(header, lines)}")
    return "\n".join(tables) or NOTHING


def _rows(record: Mapping[str, Any], groups: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Those that were timed, of a record that names the settings that were the fastest."""
    for group in groups:
        for row in record.get("rows", {}).get(group, ()):
            if row["train"] is not None and "train_setting" in row:
                yield row


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


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
    "targets": targets_table,
    "nets": partial(nets_table, "steps", "stack"),
    **{name: partial(layers_table, name) for name in ("equal", "other")},
    "compiled": partial(nets_table, "compiled"),
    "gpu": gpu_table,
    "accuracy": accuracy_table,
    "machine": machine_table,
}
