"""The folder of a run: all that certify, attack, inspect and report need to know."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import nn

try:
    from filelock import FileLock, Timeout
except ImportError as error:
    raise ImportError("taut.training needs filelock: pip install 'taut[cli]'.") from error

from taut.data import Dataset, StreamedDataset, load, stream
from taut.files import load_state, load_tensors, remove_leftovers, rounded_tensors, write_atomically
from taut.training._recipe import Recipe

RECIPE = "recipe.json"
ORIGIN = "run.json"
METRICS = "metrics.csv"
TEST = "test.json"
LOCK = ".lock"
MODEL = "model.safetensors"
STATE = "state.safetensors"
EpochRow = dict[str, int | float]


@final
@dataclass(frozen=True, repr=False)
class Run:
    """A run folder, read lazily.

    Args:
        path: the folder.
        recipe: the settings it was trained with.
        data_dir: where its data set is read from; None for an embedded one.
        workers: processes that decode images as they are needed; None if all are in memory.

    Example:
        >>> Run.open("no-such-run")
        Traceback (most recent call last):
        FileNotFoundError: no-such-run is not a run folder: it has no recipe.json.
    """

    path: Path
    recipe: Recipe
    data_dir: Path | None
    workers: int | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, recipe {self.recipe.name!r})"

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None
    ) -> "Run":
        """The run in a folder; only its settings are read, and Python files they name executed.

        Args:
            path: what `taut train --run` was given.
            data_dir: where the data set is now; where training read it by default.

        Raises:
            FileNotFoundError: if the folder holds no run.
            ValueError: if one of its files is damaged; the message names it.
        """
        folder = Path(path)
        if not (folder / RECIPE).is_file():
            raise FileNotFoundError(f"{folder} is not a run folder: it has no {RECIPE}.")
        recipe = read_recipe(folder / RECIPE)
        origin, workers = _read_origin(folder / ORIGIN)
        return cls(folder, recipe, origin if data_dir is None else Path(data_dir), workers)

    def model(self, device: torch.device | str = "cpu") -> nn.Module:
        """A copy of the trained model, in eval mode.

        Raises:
            FileNotFoundError: if training has not saved one yet.
            ValueError: if the file is damaged or is of another model.
        """
        path = self.path / MODEL
        if not path.is_file():
            raise FileNotFoundError(f"{self.path} has no trained model yet: no {MODEL}.")
        tensors, metadata = load_tensors(path)
        refuse_foreign(metadata, self.recipe, path)
        with torch.random.fork_rng(devices=[]):
            model = self.recipe.build_model()
        if rounded := rounded_tensors(model, tensors):
            dtype = tensors[rounded[0]].dtype
            raise ValueError(
                f"{path} does not fit the model: it would round {rounded[0]}, {dtype}."
            )
        load_state(model, tensors, path)
        return model.to(device).eval()

    def initial_model(self, device: torch.device | str = "cpu") -> nn.Module:
        """The initial model, rebuilt from the seed, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.recipe.seed)
            return self.recipe.build_model().to(device).eval()

    def dataset(self) -> Dataset:
        """The data set it was trained on, in memory; `train` with what was held out of it."""
        recipe = self.recipe
        options = {"holdout": recipe.holdout, "shape": recipe.image_shape, "draft": recipe.draft}
        return load(recipe.dataset, self.data_dir, **options)

    def data(self) -> Dataset | StreamedDataset:
        """The data set, streamed from disk if the run streams it."""
        if self.workers is None:
            return self.dataset()
        recipe, workers = self.recipe, self.workers
        options = {"holdout": recipe.holdout, "shape": recipe.image_shape, "draft": recipe.draft}
        return stream(recipe.dataset, self.data_dir, workers=workers, **options)

    def history(self) -> list[EpochRow]:
        """One row per epoch, as in metrics.csv; `epoch` and `step` are whole numbers.

        Accuracies are those of the images held out for validation, or of the test images if the
        recipe holds none out.
        """
        path = self.path / METRICS
        if not path.is_file():
            return []
        try:
            rows = csv.DictReader(io.StringIO(path.read_text()), strict=True)
            whole = ("epoch", "step")
            return [{k: int(v) if k in whole else float(v) for k, v in r.items()} for r in rows]
        except (csv.Error, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None

    def test_accuracy(self) -> EpochRow | None:
        """Accuracies on the test images at the end, named as in metrics.csv; None before it.

        Raises:
            ValueError: if a file is damaged; the message names it.
        """
        if not self.recipe.validation:
            rows = self.history()
            return rows[-1] if len(rows) >= self.recipe.epochs else None
        path = self.path / TEST
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text())
            return {k: int(v) if k == "step" else float(v) for k, v in values.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None

    def finished(self) -> bool:
        """Whether all epochs are done and the saved model is that of the last one.

        Raises:
            ValueError: if a file is damaged; the message names it.
        """
        rows = self.history()
        if len(rows) < self.recipe.epochs or not (self.path / MODEL).is_file():
            return False
        # A row is written before the checkpoint of its epoch.
        _, metadata = load_tensors(self.path / MODEL)
        return metadata.get("step") == str(rows[-1]["step"])


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file; Python files that it names lie beside it, and are executed.

    Raises:
        FileNotFoundError: if there is no such file, or a Python file is missing.
        ValueError: if it holds no recipe; the message names the file.

    Example:
        >>> read_recipe(Path("nowhere.json"))
        Traceback (most recent call last):
        FileNotFoundError: There is no file nowhere.json.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return Recipe.from_json(path.read_text(encoding="utf-8"), path.parent)
    except ValueError as error:
        raise ValueError(f"{path} holds no recipe: {error}") from None


def prepare(recipe: Recipe, folder: Path, data_dir: Path | None, workers: int | None = None) -> Run:
    """Create a run folder, or open an existing one with the same recipe.

    Args:
        recipe: the settings; the Python files that define its classes are copied into the folder.
        folder: made if it does not exist.
        data_dir: where the data set is read from.
        workers: processes that decode images as they are needed; None if all are in memory.

    Raises:
        ValueError: if the folder holds a run of another recipe, or other files; then nothing is
            changed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = prepare(Recipe(name="a", dataset="mnist"), Path(folder), None)
        ...     sorted(os.listdir(folder))
        ['.lock', 'recipe.json', 'run.json']
    """
    absolute = None if data_dir is None else str(data_dir.expanduser().absolute())
    origin = {"data_dir": absolute, "torch": torch.__version__, "workers": workers}
    # The recipe last: it is what makes the folder a run.
    contents = {ORIGIN: (json.dumps(origin, indent=2) + "\n").encode()}
    contents |= {file.name: file.content for file in recipe.files}
    contents |= {RECIPE: recipe.to_json().encode()}
    if (folder / RECIPE).is_file():
        refuse_other_recipe(recipe, Run.open(folder).recipe, folder)
    elif folder.exists() and not _may_become_a_run(folder, contents):
        raise ValueError(f"{folder} is neither a run folder nor empty; choose another one.")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        for name, content in contents.items():
            remove_leftovers(folder / name)
            write_atomically(folder / name, content)
    return Run.open(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a run folder, or refuse if another process has; remove half-written files."""
    try:
        lock = FileLock(folder / LOCK, timeout=0).acquire()
    except Timeout:
        raise ValueError(
            f"Another process trains in {folder}; wait for it, or choose another folder."
        ) from None
    with lock:
        for name in (RECIPE, ORIGIN, MODEL, STATE, METRICS, TEST):
            remove_leftovers(folder / name)
        yield


def refuse_foreign(metadata: Mapping[str, str], recipe: Recipe, path: Path) -> None:
    """Refuse a file whose header has another recipe than its run; one without a recipe passes."""
    if "recipe" in metadata and Recipe.from_json(metadata["recipe"], path.parent) != recipe:
        raise ValueError(f"{path} belongs to another recipe than the {RECIPE} beside it.")


def refuse_other_recipe(asked: Recipe, found: Recipe, folder: Path) -> None:
    """Refuse to continue in a folder with another recipe, `found`.

    Raises:
        ValueError: if they differ; the message names the first setting that does.

    Example:
        >>> recipe = Recipe(name="a", dataset="mnist")
        >>> refuse_other_recipe(recipe, recipe, Path("runs/a"))
    """
    ours, theirs = vars(asked), vars(found)
    for name in ours:
        if ours[name] != theirs[name]:
            there, now = _shown(theirs[name]), _shown(ours[name])
            raise ValueError(
                f"{folder} holds a run of another recipe (`{name}` is {there} there, "
                f"{now} now); choose another folder. Nothing was changed."
            )


def _shown(value: object) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)


def write_history(run: Run, rows: list[EpochRow]) -> None:
    """Replace metrics.csv by rows with the same keys."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(run.path / METRICS, text.getvalue().encode())


def _read_origin(path: Path) -> tuple[Path | None, int | None]:
    """Where training read its data, and with how many workers."""
    if not path.is_file():
        return None, None
    try:
        origin = json.loads(path.read_text())
        data_dir, workers = origin["data_dir"], origin.get("workers")
        if workers is not None and not (type(workers) is int and workers >= 0):
            raise ValueError(f"workers={workers!r}")
        return None if data_dir is None else Path(data_dir), workers
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None


def _may_become_a_run(folder: Path, names: Mapping[str, bytes]) -> bool:
    """Whether a folder holds nothing but what a process that is killed in `prepare` leaves."""
    prefixes = tuple(f".{name}." for name in names)
    return folder.is_dir() and all(
        file.name in (LOCK, *names) or file.name.startswith(prefixes) for file in folder.iterdir()
    )
