"""What layers and nets cost beside plain torch, orthogonium, deel-torchlip and the paper's code.

Example: python -m experiments.speed --layers 128x128x3 256x256x3 --nets large-cifar10
         python -m experiments.speed --record records/speed.json   # all of docs/speed.md

All contenders of a case take turns in one run; ratios are medians over the rounds. Writes
record.json, table.md and plots into a folder; stopped, the same command goes on from there. Let the
machine be idle.

A layer is INxOUTxKERNEL with sSTRIDE, @SIZE and bBATCH if wanted (64x128x4s2@32b8), or INxOUT for
a dense one. A net is small-, large-, fc3- or wide- with mnist or cifar10, or stack-DEPTHxCHANNELS:
equal 3x3 layers with MaxMin between them. Without either, groups of docs/speed.md are measured:
the groups are steps, equal, stack and other. Another one, growth, shows how times grow.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments._record import Record
from experiments._runner import DEVICE, QUICK, Experiment, option, progress, show_table, tracked
from experiments.speed._cases import parse_case, parse_layer, parse_net
from experiments.speed._contenders import select
from experiments.speed._page import (
    GPU_GROUPS,
    GROUPS,
    GROWTH,
    PAPER,
    QUICK_GROUPS,
    QUICK_GROWTH,
    Group,
    aims,
    import_seconds,
    steps,
)
from experiments.speed._results import HEADER, Results, cells
from experiments.speed._rows import SpeedRow
from experiments.speed._spectra import ACCURACY, QUICK_ACCURACY
from experiments.speed._timing import TimingSettings
from taut.training import choose_device

_GROUP_NAMES = (*GROUPS, "growth")
_MEANING = """
train: a layer forwards and backwards, a net's step    eval: without gradients, weights cached
|σ-1|: the singular value farthest from 1              floor: what any exact method spends"""


def work(args: argparse.Namespace, record: Record) -> None:
    groups = chosen_groups(args)
    wanted = []  # all is checked before anything is measured
    for name, group in groups.items():
        files = (*args.contender, *([PAPER] if group.paper else ()))
        contenders = select(args.methods or group.contenders, files)
        wanted += [(name, parse_case(case), contenders, files) for case in group.cases]
    folder = args.out or Path("runs", "speed-quick" if args.quick else "speed")
    results = Results(folder, settings_of(args), record.command)
    rows: dict[str, list[SpeedRow]] = {name: [] for name in groups}
    try:
        with progress("cases", len(wanted)) as tell:
            for done, case in enumerate(wanted, 1):
                measured = results.measured(*case)
                rows[case[0]] += measured
                tell(done)
                print(summary(measured), flush=True)
        show([row for group in rows.values() for row in group], results)
        if not (args.layers or args.nets or args.groups):
            compare_with_aims(rows, results, quick=args.quick)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped. {folder} has what is finished; the same command goes on from there."
        ) from None
    finally:
        results.plot()
    here = results.record.content["environment"] | {"command": record.command}
    record.content = results.record.content | {"environment": here}
    record.keep()


def chosen_groups(args: argparse.Namespace) -> dict[str, Group]:
    if args.layers or args.nets:
        cases = (*map(parse_layer, args.layers), *map(parse_net, args.nets))
        return {"own": Group(tuple(case.name for case in cases))}
    every = QUICK_GROUPS if args.quick else GROUPS
    if not args.groups:
        gpu = choose_device(args.device).type == "cuda" and not args.quick
        return every | (GPU_GROUPS if gpu else {})
    every = every | {"growth": QUICK_GROWTH if args.quick else GROWTH}
    return {name: every[name] for name in args.groups}


def settings_of(args: argparse.Namespace) -> TimingSettings:
    repeats = 5 if args.quick else 15
    return TimingSettings(
        device=str(choose_device(args.device)),
        dtype=args.dtype,
        repeats=repeats if args.repeats is None else args.repeats,
        seconds=4.0 if args.quick else 20.0,
        threads=torch.get_num_threads(),
    )


def summary(rows: Sequence[SpeedRow]) -> str:
    """One line about a case.

    >>> summary([SpeedRow("8x8x3@16b16", "taut", train_ratio=1.5)])
    '8x8x3@16b16, times plain: taut 1.50'
    """
    ratios = [
        f"{row.contender} {row.train_ratio:.2f}"
        for row in rows
        if row.train_ratio is not None and row.contender != "plain"
    ]
    return f"{rows[0].case}, times plain: {', '.join(ratios) or 'nothing to compare'}"


def show(rows: Sequence[SpeedRow], results: Results) -> None:
    """The rows with numbers as a table; below it, why others have none."""
    print()
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
    print(f"Wrote {results.folder}: record.json, table.md and the plots.")


def compare_with_aims(rows: dict[str, list[SpeedRow]], results: Results, *, quick: bool) -> None:
    """What is left of docs/speed.md where all of its groups have been measured."""
    kinds = tracked(QUICK_ACCURACY if quick else ACCURACY, "spectra")
    accuracies = [results.accuracy(*kind) for kind in kinds]
    imports = import_seconds(1 if quick else 5)
    reached = aims(rows, accuracies, imports, gpu=results.settings.place.type == "cuda")
    for aim in reached:
        print(f"{aim['what']}: {aim['reached']:.3g} (aim: at most {aim['aim']:g})")
    results.record.keep(steps=steps(rows["steps"]), aims=reached, **{"import": imports})


EXPERIMENT = Experiment(
    "speed",
    __doc__,
    work,
    (
        option("--layers", (), "layers to measure", metavar="CASE"),
        option("--nets", (), "nets to measure", metavar="CASE"),
        option(
            "--groups", (), "of docs/speed.md, or growth", choices=_GROUP_NAMES, metavar="GROUP"
        ),
        option(
            "--methods",
            (),
            "plain, taut, a parametrization, orthogonium, deel-torchlip; left out: the group's, or "
            "all",
        ),
        option(
            "--contender",
            (),
            "Python files that define NAME, conv(in, out, kernel, stride) and linear(in, out)",
            type=Path,
        ),
        QUICK,
        option("--repeats", help="rounds of turns: 15, or 5 if quick", type=int),
        DEVICE,
        option("--dtype", "float32", "bfloat16: autocast to it", choices=("float32", "bfloat16")),
        option("--out", help="the folder of results: runs/speed, or runs/speed-quick", type=Path),
    ),
)
