"""`taut reproduce`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from taut.cli.progress import show_training
from taut.cli.shared import Device, OptionalFolder, progress, show_table
from taut.reproduce import (
    CRITIC_SETTINGS,
    HEADS,
    SETTINGS,
    TABLE4,
    TABLES,
    CriticPlan,
    Page,
    Plan,
    Trial,
    by_dataset,
    cells,
    check,
    compare,
    complete_critics,
    critic_page,
    make_critic_plan,
    make_plan,
    page_of,
    take,
    trained,
    trained_rows,
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
    steps: _Number = None,
    attacked: _Number = None,
    data_dir: OptionalFolder = None,
    out: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Train, certify and attack the nets of a table, and print ours beside the published values.

    TABLE is table1, table2, table3, table4, table7, table8 or table9 of arXiv:1911.00937. What is
    finished is not done again; after Ctrl-C the same command goes on. Writes TABLE.md and TABLE.png
    into the folder of the setting, and the runs under it. Tables of classifiers share their runs.

    Example: taut reproduce table1 --only mnist small --data-dir DATA

    Args:
        table: which.
        setting: short is what two CPU cores can do, with a falling learning rate; paper is the
            published protocol, for a GPU; quick is next to nothing on embedded images, to see it
            work.
        only: data sets, architectures and methods to keep, such as: mnist small BCOP RKO. The data
            sets fashion-mnist and cifar10-jpeg75, which are not the paper's, are done if named. For
            table4: data sets, mnist-fashion-mnist, methods and activations.
        seeds: one run each; those of the setting if not given.
        epochs: of a classifier, instead of those of the setting.
        steps: of a critic of table4, instead of those of the setting.
        attacked: attack the first so many test images; those of the setting if not given.
        data_dir: a folder with one folder a data set, called by its name; or that of the only one.
        out: the folder for all; runs/reproduce-SETTING if not given.
        device: auto takes a GPU if there is one.
    """
    place = out or Path("runs", f"reproduce-{setting}")
    if table == TABLE4:
        _refuse(table, epochs=epochs, attacked=attacked)
        critics = CRITIC_SETTINGS[setting]
        wanted = replace(critics, seeds=seeds or critics.seeds, steps=_or(steps, critics.steps))
        _critics(make_critic_plan(wanted, place, only=only, data_dir=data_dir), device)
        return
    if table not in TABLES:
        raise ValueError(f"`table` must be one of {', '.join(_names())}; got {table!r}.")
    _refuse(table, steps=steps)
    if attacked is not None and attacked < 1:
        raise ValueError(f"`attacked` must be at least 1; got {attacked}.")
    chosen = SETTINGS[setting]
    changes = {"seeds": seeds or chosen.seeds, "attacked": attacked or chosen.attacked}
    options = {"only": only, "epochs": epochs, "data_dir": data_dir}
    _classifiers(make_plan(TABLES[table], replace(chosen, **changes), place, **options), device)


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


def complete_table4(plan: CriticPlan, device: Device) -> None:
    """Train the critics that are missing, and say which."""
    complete_critics(plan, device=choose_device(device), say=_say, bar=progress)


def _names() -> list[str]:
    return sorted([*TABLES, TABLE4])


def _or(given: int | None, other: int) -> int:
    return other if given is None else given


def _refuse(table: str, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"`{name}` has no meaning for {table}; got {value}.")


def _classifiers(plan: Plan, device: Device) -> None:
    left = check(plan)
    try:
        for number, trial in enumerate(left, 1):
            _say(f"run {number} of {len(left)}: {trial.folder}")
            complete(trial, device)
    except KeyboardInterrupt:
        _conclude_classifiers(plan)
        raise _stopped() from None
    _conclude_classifiers(plan)


def _critics(plan: CriticPlan, device: Device) -> None:
    try:
        complete_table4(plan, device)
    except KeyboardInterrupt:
        _conclude(critic_page(plan), written=trained_rows(plan)[0] > 0)
        raise _stopped() from None
    _conclude(critic_page(plan), written=True)


def _stopped() -> KeyboardInterrupt:
    return KeyboardInterrupt("Stopped; the same command goes on from there.")


def _conclude_classifiers(plan: Plan) -> None:
    comparison = compare(plan)
    _conclude(page_of(comparison), written=comparison.runs > 0)


def _conclude(page: Page, *, written: bool) -> None:
    """Print the table as far as it goes, and write it where it is not written yet."""
    print(page.heading)
    for dataset, lines in by_dataset(page.lines).items():
        show_table(f"\n{dataset}", HEADS, [cells(line) for line in lines])
    print("\n" + "\n".join(page.notes))
    if written:
        print("\nSee " + " and ".join(map(str, write(page))))


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
