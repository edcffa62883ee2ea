"""`taut reproduce`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from taut.cli.progress import show_training
from taut.cli.shared import Device, OptionalFolder, progress, show_table
from taut.reproduce import (
    HEADS,
    SETTINGS,
    TABLES,
    Plan,
    Trial,
    by_dataset,
    cells,
    check,
    compare,
    heading,
    make_plan,
    notes,
    take,
    trained,
    write,
)
from taut.training import choose_device

_Table = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
_Words = Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...", help_behavior_hint="")]
_Seeds = Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED ...", help_behavior_hint="")]
_Number = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]


def reproduce(
    table: _Table,
    *,
    setting: Literal["short", "paper", "quick"] = "short",
    only: _Words = (),
    seeds: _Seeds = (),
    epochs: _Number = None,
    attacked: _Number = None,
    data_dir: OptionalFolder = None,
    out: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Train, certify and attack the nets of a table, and print ours beside the published values.

    TABLE is table1, table2, table3, table7, table8 or table9 of arXiv:1911.00937. What is finished
    is not done again; after Ctrl-C the same command goes on. Writes TABLE.md and TABLE.png into the
    folder of the setting, and the run folders under it. All tables share their runs.

    Example: taut reproduce table1 --only mnist small --data-dir DATA

    Args:
        table: which.
        setting: short is what two CPU cores can do, with a one-cycle learning rate; paper is the
            published protocol, for a GPU; quick is one epoch on embedded images, to see it work.
        only: data sets, architectures and methods to keep, such as: mnist small BCOP RKO. The data
            sets fashion-mnist and cifar10-jpeg75, which are not the paper's, are done if named.
        seeds: one run each; those of the setting if not given.
        epochs: instead of those of the setting.
        attacked: attack the first so many test images; those of the setting if not given.
        data_dir: a folder with one folder a data set, called by its name; or that of the only one.
        out: the folder for all; runs/reproduce-SETTING if not given.
        device: auto takes a GPU if there is one.
    """
    if table not in TABLES:
        raise ValueError(f"`table` must be one of {', '.join(TABLES)}; got {table!r}.")
    if attacked is not None and attacked < 1:
        raise ValueError(f"`attacked` must be at least 1; got {attacked}.")
    chosen = SETTINGS[setting]
    changes = {"seeds": seeds or chosen.seeds, "attacked": attacked or chosen.attacked}
    plan = make_plan(
        TABLES[table],
        replace(chosen, **changes),
        out or Path("runs", f"reproduce-{setting}"),
        only=only,
        epochs=epochs,
        data_dir=data_dir,
    )
    left = check(plan)
    try:
        for number, trial in enumerate(left, 1):
            _say(f"run {number} of {len(left)}: {trial.folder}")
            complete(trial, device)
    except KeyboardInterrupt:
        _conclude(plan)
        raise KeyboardInterrupt("Stopped; the same command goes on from there.") from None
    _conclude(plan)


def complete(trial: Trial, device: Device) -> None:
    """Train what is missing of a run, and measure what is missing of it."""
    with show_training(trial.recipe.epochs) as on_progress:
        run = trained(
            trial.recipe,
            trial.folder,
            data_dir=trial.data_dir,
            device=device,
            on_progress=on_progress,
        )
    take(run, trial.measures, device=choose_device(device), bar=progress)


def _conclude(plan: Plan) -> None:
    """Print the table as far as it goes, and write it where it is not written yet."""
    comparison = compare(plan)
    print(heading(plan))
    for dataset, lines in by_dataset(comparison).items():
        show_table(f"\n{dataset}", HEADS, [cells(line) for line in lines])
    print("\n" + "\n".join(notes(comparison)))
    if comparison.runs:
        print("\nSee " + " and ".join(map(str, write(comparison))))


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
