"""The folder of a run: all that certify, attack, inspect and report need to know."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from torch import nn

from taut.data import Dataset, StreamedDataset, load, stream
from taut.files import load_tensors, locked, remove_leftovers, write_atomically
from taut.models import build
from taut.training.recipe import Recipe

RECIPE, ORIGIN, MODEL, STATE, METRICS, LOCK = (
    "recipe.json",
    "run.json",
    "model.safetensors",
    "state.safetensors",
    "metrics.csv",
    ".lock",
)
Row = dict[str, int | float]

_WHOLE_NUMBERS = ("epoch", "step")


@final
@dataclass(frozen=True)
class Run:
    """A run folder, read lazily.

    Args:
        path: the folder.
        recipe: the settings it was trained with.
        data_dir: where its data set was read from; None for an embedded one.
        workers: processes that decoded its images as they were needed; None if all were in memory.

    Example:
        >>> Run.open("no-such-run")
        Traceback (most recent call last):
        FileNotFoundError: no-such-run is no run folder: it has no recipe.json.
    """

    path: Path
    recipe: Recipe
    data_dir: Path | None
    workers: int | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """The run in a folder.

        Args:
            path: what `taut train --run` was given.

        Returns:
            The run; nothing is loaded but its settings.

        Raises:
            FileNotFoundError: if the folder holds no run.
            ValueError: if one of its files is damaged; the message names it.
        """
        folder = Path(path)
        if not (folder / RECIPE).is_file():
            raise FileNotFoundError(f"{folder} is no run folder: it has no {RECIPE}.")
        recipe = read_recipe(folder / RECIPE)
        try:
            origin = json.loads((folder / ORIGIN).read_text())
            data_dir = None if origin["data_dir"] is None else Path(origin["data_dir"])
            workers = origin.get("workers")
            if workers is not None and not (type(workers) is int and workers >= 0):
                raise ValueError(f"workers={workers!r}")
        except FileNotFoundError:
            data_dir = workers = None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / ORIGIN} is damaged and cannot be read ({error})."
            ) from None
        return cls(folder, recipe, data_dir, workers)

    def model(self, device: torch.device | str = "cpu") -> nn.Sequential:
        """The trained model in eval mode.

        Args:
            device: where to put it.

        Returns:
            A model of its own for each call.

        Raises:
            FileNotFoundError: if training has not saved one yet.
            ValueError: if the file is damaged or is of another model.
        """
        if not (self.path / MODEL).is_file():
            raise FileNotFoundError(f"{self.path} has no trained model yet: no {MODEL}.")
        tensors, metadata = load_tensors(self.path / MODEL)
        refuse_foreign(metadata, self.recipe, self.path / MODEL)
        with torch.random.fork_rng(devices=[]):
            model = build(self.recipe.model)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.path / MODEL} does not fit the model of {RECIPE} ({reason})."
            ) from None
        return model.to(device).eval()

    def initial_model(self, device: torch.device | str = "cpu") -> nn.Sequential:
        """The model that training started from, rebuilt from the seed, in eval mode.

        Args:
            device: where to put it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.recipe.seed)
            return build(self.recipe.model).to(device).eval()

    def dataset(self) -> Dataset:
        """The data set it was trained on, from the same place, in memory."""
        name, shape = self.recipe.dataset, self.recipe.image_shape
        return load(name, self.data_dir, holdout=self.recipe.holdout, shape=shape)

    def data(self) -> Dataset | StreamedDataset:
        """The same, streamed from disk if the run streams it."""
        if self.workers is None:
            return self.dataset()
        return stream(
            self.recipe.dataset,
            self.data_dir,
            workers=self.workers,
            holdout=self.recipe.holdout,
            shape=self.recipe.image_shape,
        )

    def history(self) -> list[Row]:
        """One row an epoch, as in metrics.csv; `epoch` and `step` are whole numbers."""
        path = self.path / METRICS
        if not path.is_file():
            return []
        try:
            rows = list(csv.DictReader(io.StringIO(path.read_text()), strict=True))
            return [
                {k: int(v) if k in _WHOLE_NUMBERS else float(v) for k, v in row.items()}
                for row in rows
            ]
        except (csv.Error, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file.

    Args:
        path: the file.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no recipe; the message names the file.

    Example:
        >>> read_recipe(Path("nowhere.json"))
        Traceback (most recent call last):
        FileNotFoundError: There is no file nowhere.json.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return Recipe.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} holds no recipe: {error}") from None


def prepare(recipe: Recipe, folder: Path, data_dir: Path | None, workers: int | None = None) -> Run:
    """Makes a run folder, or opens the one of the same recipe.

    Args:
        recipe: the settings.
        folder: where to; made if it is not there.
        data_dir: where the data set is read from.
        workers: processes that decode images as they are needed; None if all are in memory.

    Returns:
        The run.

    Raises:
        ValueError: if the folder holds a run of another recipe, or other files: nothing is touched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = prepare(Recipe(name="a", dataset="mnist"), Path(folder), None)
        ...     sorted(os.listdir(folder))
        ['.lock', 'recipe.json', 'run.json']
    """
    if (folder / RECIPE).is_file():
        refuse_other_recipe(recipe, Run.open(folder).recipe, folder)
    elif folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
        raise ValueError(f"{folder} is neither a run folder nor empty; choose another one.")
    folder.mkdir(parents=True, exist_ok=True)
    absolute = None if data_dir is None else str(data_dir.expanduser().absolute())
    origin = {"data_dir": absolute, "torch": torch.__version__, "workers": workers}
    with alone(folder):
        write_atomically(folder / ORIGIN, (json.dumps(origin, indent=2) + "\n").encode())
        # The recipe last: it is what makes the folder a run.
        write_atomically(folder / RECIPE, recipe.to_json().encode())
    return Run.open(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process writes to a run folder; what killed ones left half written goes.

    Args:
        folder: of the run.

    Raises:
        ValueError: if another process is at it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, alone(Path(folder)):
        ...     os.listdir(folder)
        ['.lock']
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK))
        except BlockingIOError:
            raise ValueError(
                f"Another process trains in {folder}; wait for it, or choose another folder."
            ) from None
        for name in (RECIPE, ORIGIN, MODEL, STATE, METRICS):
            remove_leftovers(folder / name)
        yield


def _is_foreign(file: Path) -> bool:
    """Whether a file is not one that a killed process leaves before its folder is a run."""
    return file.name not in (LOCK, ORIGIN) and not file.name.startswith(
        (f".{RECIPE}.", f".{ORIGIN}.")
    )


def refuse_foreign(metadata: Mapping[str, str], recipe: Recipe, path: Path) -> None:
    """Compares the recipe in the header of a file with that of its run.

    Args:
        metadata: text in the header; of files that say nothing of a recipe nothing is asked.
        recipe: of the run.
        path: for the message.

    Raises:
        ValueError: if they differ.

    Example:
        >>> refuse_foreign({"step": "3"}, Recipe(name="a", dataset="mnist"), Path("state"))
    """
    if "recipe" in metadata and Recipe.from_json(metadata["recipe"]) != recipe:
        raise ValueError(f"{path} is of another recipe than the {RECIPE} beside it.")


def write_history(run: Run, rows: list[Row]) -> None:
    """Replaces metrics.csv.

    Args:
        run: whose.
        rows: one an epoch, all with the same keys.
    """
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(run.path / METRICS, text.getvalue().encode())


def refuse_other_recipe(asked: Recipe, found: Recipe, folder: Path) -> None:
    """Compares the recipe that is asked for with the one that a folder holds.

    Args:
        asked: the settings wanted.
        found: those of the run in the folder.
        folder: for the message.

    Raises:
        ValueError: if they differ; the message names the first setting that does.

    Example:
        >>> recipe = Recipe(name="a", dataset="mnist")
        >>> refuse_other_recipe(recipe, recipe, Path("runs/a"))
    """
    there, here = asdict(found), asdict(asked)
    different = [name for name in here if here[name] != there[name]]
    if different:
        name = different[0]
        raise ValueError(
            f"{folder} holds a run of another recipe (`{name}` is {there[name]!r} there, "
            f"{here[name]!r} now); choose another folder. Nothing was changed."
        )


def finished(run: Run) -> bool:
    """Whether all epochs of a run are done and its model is that of the last one.

    Args:
        run: as it was opened.

    Raises:
        ValueError: if a file is damaged; the message names it.

    Example:
        >>> finished(Run(Path("nowhere"), Recipe(name="a", dataset="mnist"), None))
        False
    """
    rows = run.history()
    if len(rows) < run.recipe.epochs or not (run.path / MODEL).is_file():
        return False
    # A row is written before the checkpoint that it speaks of.
    _, metadata = load_tensors(run.path / MODEL)
    return metadata.get("step") == str(rows[-1]["step"])
