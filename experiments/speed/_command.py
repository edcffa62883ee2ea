"""What layers and nets cost beside plain torch, orthogonium, deel-torchlip and the paper's code.

Example: python -m experiments.speed --layers 128x128x3 256x256x3 --nets large-cifar10
         python -m experiments.speed --record records/speed.json   # all of docs/speed.md
         python -m experiments.speed --device cuda --record records/speed-cuda.json

Plain is the fastest of zero and circular padding, channels first and last, with MaxMin in a net;
the others, too, take the memory format that is their faster one. All contenders of a case take
turns in one run; ratios are medians over the rounds. Writes record.json, table.md and plots into a
folder; stopped, the same command goes on from there. Let the machine be idle.

A layer is INxOUTxKERNEL with sSTRIDE, @SIZE and bBATCH if wanted (64x128x4s2@32b8), or INxOUT for
a dense one. A net is small-, large-, fc3- or wide- with mnist or cifar10, or stack-DEPTHxCHANNELS:
equal 3x3 layers with MaxMin between them. Without either, groups of docs/speed.md are measured:
steps, equal, stack and other. Further ones are compiled, which takes minutes to compile, and
growth, which shows how times grow.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from experiments._record import Record
from experiments._runner import (
    DEVICE,
    QUICK,
    Experiment,
    option,
    progress,
    sentence,
    show_table,
    tracked,
)
from experiments.speed._cases import parse_case, parse_layer, parse_net
from experiments.speed._contenders import contenders, select
from experiments.speed._groups import (
    EVERY_GROUP,
    GPU_GROUPS,
    GROUPS,
    NAMED,
    PAPER,
    QUICK_GROUPS,
    QUICK_NAMED,
    Group,
)
from experiments.speed._page import import_seconds, targets
from experiments.speed._results import HEADER, Results, cells
from experiments.speed._rows import SpeedRow
from experiments.speed._spectra import ACCURACY, QUICK_ACCURACY
from experiments.speed._timing import Precision, TimingSettings
from taut.training import choose_device

_MEANING = """
train: a layer forwards and backwards, a net's step    eval: without gradients, weights cached
|σ-1|: the singular value farthest from 1              floor: what any exact method spends"""


def work(args: argparse.Namespace, record: Record) -> None:
    groups = chosen_groups(args)
    settings = settings_of(args)
    wanted = []  # all is checked before anything is measured
    for name, group in groups.items():
        files = (*args.contender, *([PAPER] if group.paper else ()))
        usual = [contender for contender in group.contenders if contender in contenders(files)]
        contestants = select(args.methods or usual, files)
        wanted += [(name, parse_case(case), contestants, files) for case in group.cases]
    folder = args.out or Path("runs", "-".join(_folder_words(args, settings)))
    rows: dict[str, list[SpeedRow]] = {name: [] for name in groups}
    with settings.precision():
        results = Results(folder, settings, record.command)
        try:
            with progress("cases", len(wanted)) as tell:
                for done, case in enumerate(wanted, 1):
                    measured = results.measured(*case)
                    rows[case[0]] += measured
                    tell(done)
                    print(summary(measured), flush=True)
            show([row for group in rows.values() for row in group], results)
            if not (args.layers or args.nets or args.groups):
                compare_with_targets(rows, results, quick=args.quick)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped. {folder} has what is finished; the same command goes on from there."
            ) from None
        finally:
            results.plot()
    here = results.record.content["environment"]
    if not args.groups:  # groups are added to what another command has measured
        here = here | {"command": record.command}
    record.content = results.record.content | {"environment": here}
    record.keep()


def _folder_words(args: argparse.Namespace, settings: TimingSettings) -> list[str]:
    words = ["speed"]
    if settings.place.type == "cuda":
        words += ["cuda"]
    if settings.dtype != "float32":
        words += [settings.dtype]
    return words + ["quick"] * args.quick


def chosen_groups(args: argparse.Namespace) -> dict[str, Group]:
    if args.layers or args.nets:
        cases = (*map(parse_layer, args.layers), *map(parse_net, args.nets))
        return {"own": Group(tuple(case.name for case in cases))}
    on_gpu = choose_device(args.device).type == "cuda"
    every = QUICK_GROUPS if args.quick else GPU_GROUPS if on_gpu else GROUPS
    if not args.groups:
        return every
    every = every | (QUICK_NAMED if args.quick else NAMED)
    return {name: every[name] for name in args.groups}


def settings_of(args: argparse.Namespace) -> TimingSettings:
    repeats = 5 if args.quick else 15
    return TimingSettings(
        device=str(choose_device(args.device)),
        dtype=args.dtype,
        repeats=repeats if args.repeats is None else args.repeats,
        seconds=0.5 if args.quick else 2.0,
        threads=torch.get_num_threads(),
    )


def summary(rows: Sequence[SpeedRow]) -> str:
    """One line about a case.

    >>> plain = SpeedRow("8x8x3@16b16", "plain", train_setting="zeros, channels last")
    >>> summary([plain, SpeedRow("8x8x3@16b16", "taut", train_ratio=1.5)])
    '8x8x3@16b16, times plain (zeros, channels last): taut 1.50'
    """
    setting = next((f" ({x.train_setting})" for x in rows if x.train_setting), "")
    ratios = [
        f"{row.contender} {row.train_ratio:.2f}"
        for row in rows
        if row.train_ratio is not None and row.contender != "plain"
    ]
    return f"{rows[0].case}, times plain{setting}: {', '.join(ratios) or 'nothing to compare'}"


def show(rows: Sequence[SpeedRow], results: Results) -> None:
    """The rows with numbers as a table; below it, why others have none."""
    print()
    timed = [row for row in rows if row.train is not None]
    table = [row[:-1] for row in cells(timed, results.rates)]
    show_table("Times over those of the fastest plain layers, medians", HEADER[:-1], table)
    notes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault((row.contender, row.note), []).append(row.case)
    for (contender, note), cases in notes.items():
        where = cases[0] if len(cases) == 1 else f"{len(cases)} cases"
        print(f"{contender}, {where}: {note}")
    print(_MEANING)
    print(f"Wrote {results.folder}: record.json, table.md and the plots.")


def compare_with_targets(rows: dict[str, list[SpeedRow]], results: Results, *, quick: bool) -> None:
    """What is left of docs/speed.md where all of its groups have been measured."""
    exact = results.settings.dtype == "float32"
    kinds = (QUICK_ACCURACY if quick else ACCURACY) if exact else ()
    accuracies = []
    for kind in tracked(kinds, "spectra"):
        try:
            accuracies.append(results.accuracy(*kind))
        except ImportError as error:  # a peer is not installed
            print(f"{kind[1]}, {kind[0]}: {sentence(error)}")
    imports = import_seconds(1 if quick else 3)
    reached = targets(rows, accuracies, imports, exact=exact)
    for row in reached:
        print(f"{row['what']}: {row['reached']:.3g} (target: at most {row['target']:g})")
    results.record.keep(targets=reached, **{"import": imports})


EXPERIMENT = Experiment(
    "speed",
    __doc__,
    work,
    (
        option("--layers", (), "layers to measure", metavar="CASE"),
        option("--nets", (), "nets to measure", metavar="CASE"),
        option(
            "--groups",
            (),
            "steps, equal, stack, other, compiled, growth",
            choices=EVERY_GROUP,
            metavar="GROUP",
        ),
        option(
            "--methods",
            (),
            "plain, plain-relu, plain-circular, taut, taut-batched, taut-optim, a parametrization, "
            "orthogonium, deel-torchlip; plain and taut with -compiled or -captured; left out: the "
            "group's, or all",
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
        option(
            "--dtype",
            "float32",
            "tf32: products of float32 round to it on a GPU; bfloat16: autocast to it",
            choices=get_args(Precision),
        ),
        option(
            "--out", help="the folder of results: runs/speed, or runs/speed-quick, ...", type=Path
        ),
    ),
)
