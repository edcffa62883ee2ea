"""`taut train`."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from taut.cli.progress import accuracies, show_training
from taut.cli.shared import OptionalFolder
from taut.recipes import RECIPES
from taut.training import (
    Device,
    Launch,
    OtherProcessFailed,
    Recipe,
    Run,
    TrainingDiverged,
    TrainingInterrupted,
    is_first_process,
    train,
)
from taut.training.run import read_recipe

_DESCRIPTION = """Train a recipe into a run folder, or go on with a stopped run.

    taut train RECIPE [options]     train; all options: taut train RECIPE --help
    taut train --resume RUN         go on where RUN stopped, with its own settings

RECIPE is a name or a .json file as in a run folder. Names: {names}.

Several GPUs: taut train RECIPE --devices 4, or torchrun --nproc-per-node=4 -m -- taut train RECIPE.

Example: taut train mnist-small --data-dir data/mnist --epochs 10 --run runs/short"""


@dataclass(frozen=True)
class _New:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]

    run: OptionalFolder = None
    """the run folder; runs/NAME-seedN if not given. A run of the same settings is resumed."""

    data_dir: OptionalFolder = None
    """the folder with the original files of the data set; embedded ones need none."""

    device: Device = "auto"
    """auto takes a GPU if there is one."""

    devices: int = 1
    """processes on this machine, one a device, that divide each batch; torchrun sets it itself."""

    nodes: int = 1
    """machines; the same command is started on each."""

    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """stream images from disk, decoded by so many processes; if not given, all are in memory."""


@dataclass(frozen=True)
class _Resumed:
    resume: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """the run folder to go on with."""

    data_dir: OptionalFolder = None
    """where the data set is now, if it has moved."""

    device: Device = "auto"
    """auto takes a GPU if there is one."""

    devices: int = 1
    """processes on this machine, one a device, that divide each batch; torchrun sets it itself."""

    nodes: int = 1
    """machines; the same command is started on each."""

    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """stream images from disk, decoded by so many processes; if not given, all are in memory."""


def main(arguments: list[str]) -> None:
    """Parses and trains: the options of a recipe are its fields, with its values as defaults.

    Args:
        arguments: what follows `taut train`.

    Raises:
        ValueError: if no recipe is given, or there is no such recipe.
    """
    if not arguments:
        raise ValueError(
            "`taut train` needs a recipe, or --resume RUN; see `taut list` and `taut train --help`."
        )
    if not arguments[0].startswith("-"):
        given = find_recipe(arguments[0])
        options = tyro.cli(
            _New,
            prog=f"taut train {arguments[0]}",
            description=f"Example: taut train {arguments[0]} --epochs 2 --run runs/short",
            args=arguments[1:],
            default=_New(given),
            config=(tyro.conf.AvoidSubcommands,),
        )
        recipe = options.recipe
        folder = options.run or Path("runs", f"{recipe.name}-seed{recipe.seed}")
    else:
        description = _DESCRIPTION.format(names=", ".join(RECIPES))
        options = tyro.cli(_Resumed, prog="taut train", description=description, args=arguments)
        folder = options.resume
        recipe = Run.open(folder).recipe
    _train(recipe, folder, options)


def _train(recipe: Recipe, folder: Path, options: _New | _Resumed) -> None:
    first = is_first_process()
    try:
        with show_training(recipe.epochs) if first else nullcontext() as on_progress:
            run = train(
                recipe,
                folder,
                data_dir=options.data_dir,
                device=options.device,
                launch=Launch(options.devices, options.nodes, options.workers),
                on_progress=on_progress,
            )
    except (TrainingInterrupted, TrainingDiverged, OtherProcessFailed):
        if first:
            raise
        return  # the first process says so, and its exit code is the one that counts
    if first:
        print(_summary(run))


def find_recipe(name: str) -> Recipe:
    """A published recipe by name, or one from a JSON file.

    Args:
        name: as the user typed it.

    Returns:
        The recipe.

    Raises:
        ValueError: if there is none of that name.

    Example:
        >>> find_recipe("mnist-small").epochs
        60
    """
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith(".json"):
        return read_recipe(Path(name))
    raise ValueError(
        f"there is no recipe {name!r}; the recipes are {', '.join(RECIPES)}, or give a .json file."
    )


def _summary(run: Run) -> str:
    last = run.history()[-1]
    certified = {eps: last[f"certified_accuracy_{eps}"] for eps in run.recipe.eps}
    return f"{run.path}: {accuracies(last['clean_accuracy'], certified)} (test set, %)"
