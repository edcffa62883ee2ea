"""`taut bench`."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from taut.benchmark import (
    Case,
    Results,
    Row,
    Session,
    Settings,
    cells,
    parse_layer,
    parse_net,
    run,
    select,
)
from taut.benchmark.steps import Precision
from taut.benchmark.table import HEADER
from taut.cli.shared import progress, show_table
from taut.training import Device, choose_device

_DESCRIPTION = """Measure what layers and nets cost, beside plain torch and other libraries.

All contenders of a case take turns in one run; ratios are medians over the rounds. Writes
record.json, table.md and plots into a folder; stopped, the same command goes on from there.

A layer is INxOUTxKERNEL with sSTRIDE, @SIZE and bBATCH if wanted (64x128x4s2@32b8), or INxOUT for
a dense one. A net is small-, large-, fc3- or wide- with mnist or cifar10, or stack-DEPTHxCHANNELS:
equal 3x3 layers with MaxMin between them.

Example: taut bench --layers 128x128x3 256x256x3 --nets large-cifar10 --out runs/mine"""

_MEANING = """
train: a layer forwards and backwards, a net's step    eval: without gradients, weights cached
|σ-1|: the singular value farthest from 1              floor: what any exact method spends"""

_QUICK_LAYERS = ("32x32x3@16b8", "64x64x3@16b8", "128x128x3@16b8", "64x128x4s2@16b8", "1024x256")
_QUICK_NETS = ("small-mnist",)
_LAYERS = (
    *(f"{c}x{c}x3@16b16" for c in (32, 64, 128, 256, 512)),
    *(f"64x64x{k}@16b16" for k in (1, 2, 4, 5, 7)),
    *(f"128x128x3@16b{b}" for b in (1, 4, 64)),
    *("128x256x3@16b16", "256x128x3@16b16", "128x256x4s2@16b16", "256x256x3@4b4", "4096x512"),
)
_NETS = (
    *(f"stack-{n}x64@16b16" for n in (1, 2, 4, 8, 16)),
    *("small-mnist", "large-mnist", "large-cifar10", "stack-12x256@16b16"),
)

_Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")]
_Files = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="")]


@dataclass(frozen=True)
class _Options:
    layers: _Names = ()
    """layers to measure; with none and no net, a set that shows how times grow."""

    nets: _Names = ()
    """nets to measure."""

    methods: _Names = ()
    """plain, taut, a parametrization, orthogonium, deel-torchlip; all if none is named."""

    contender: _Files = ()
    """Python files that define NAME, conv(in, out, kernel, stride) and linear(in, out)."""

    quick: bool = False
    """a small set and few rounds."""

    repeats: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """rounds in which the contenders take turns: 15, or 5 if quick."""

    threads: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """threads on the CPU; as many as torch takes if not given."""

    device: Device = "auto"
    """auto takes a GPU if there is one."""

    dtype: Precision = "float32"
    """bfloat16: autocast to it."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """the folder of results: runs/bench, or runs/bench-quick if quick."""


def main(arguments: list[str]) -> None:
    """Parses, measures and prints.

    Args:
        arguments: what follows `taut bench`.

    Raises:
        ValueError: if a case, a method or a number is none.
    """
    options = tyro.cli(_Options, prog="taut bench", description=_DESCRIPTION, args=arguments)
    folder = options.out or Path("runs", "bench-quick" if options.quick else "bench")
    session = Session(
        cases=_cases(options),
        contenders=select(options.methods, options.contender),
        settings=_settings(options),
        files=options.contender,
        command=shlex.join(["taut", "bench", *arguments]),
    )
    with progress("cases", len(session.cases)) as update:
        done: list[str] = []

        def on_case(case: Case, rows: list[Row]) -> None:
            done.append(case.name)
            update(len(done))
            print(summary(case, rows), flush=True)

        results = run(session, folder, on_case)
    print()
    _show(results, {case.name for case in session.cases})
    print(f"Wrote {folder}: record.json, table.md and the plots.")


def summary(case: Case, rows: list[Row]) -> str:
    """One line about a case.

    Example:
        >>> summary(parse_layer("8x8x3"), [Row("8x8x3@16b16", "taut", train_ratio=1.5)])
        '8x8x3@16b16, times plain: taut 1.50'
    """
    ratios = [
        f"{row.contender} {row.train_ratio:.2f}"
        for row in rows
        if row.train_ratio is not None and row.contender != "plain"
    ]
    return f"{case.name}, times plain: {', '.join(ratios) or 'nothing to compare'}"


def _cases(options: _Options) -> list[Case]:
    if options.layers or options.nets:
        layers, nets = options.layers, options.nets
    elif options.quick:
        layers, nets = _QUICK_LAYERS, _QUICK_NETS
    else:
        layers, nets = _LAYERS, _NETS
    return [*map(parse_layer, layers), *map(parse_net, nets)]


def _settings(options: _Options) -> Settings:
    return Settings(
        device=str(choose_device(options.device)),
        dtype=options.dtype,
        repeats=(5 if options.quick else 15) if options.repeats is None else options.repeats,
        seconds=4.0 if options.quick else 20.0,
        threads=torch.get_num_threads() if options.threads is None else options.threads,
    )


def _show(results: Results, names: set[str]) -> None:
    """The rows with numbers as a table; below it, why others have none."""
    rows = [row for row in results.rows if row.case in names]
    timed = [row for row in rows if row.train is not None]
    table = [row[:-1] for row in cells(timed, results.rates)]
    show_table("Times over those of plain layers, medians", HEADER[:-1], table)
    notes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault((row.contender, row.note), []).append(row.case)
    for (contender, note), cases in notes.items():
        where = cases[0] if len(cases) == 1 else f"{len(cases)} cases"
        print(f"{contender}, {where}: {note}")
    print(_MEANING)
