"""Runs that experiments train, and what is certified of them."""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import Tensor

import taut
from experiments._record import Record, read, write_json
from experiments._runner import show_training
from taut.certification import Certification, above
from taut.training import RECIPE, Device, Recipe, Run, prepare, refuse_other_recipe, train

ENVIRONMENT = "environment.json"


def trained(
    recipe: Recipe,
    folder: Path,
    record: Record,
    *,
    data_dir: Path | None = None,
    device: Device = "auto",
) -> Run:
    """The run of a recipe, trained from where it stopped; a finished one is not touched.

    Its folder says where its training began, and by which command.
    """
    run = opened(recipe, folder)
    if run is not None and run.finished():
        return run
    data_dir = run.data_dir if data_dir is None and run is not None else data_dir
    run = prepare(recipe, folder, data_dir)
    if not (folder / ENVIRONMENT).exists() and not run.history():
        write_json(folder / ENVIRONMENT, record.environment())
    with show_training(recipe.epochs) as tell:
        return train(recipe, folder, data_dir=data_dir, device=device, on_progress=tell)


def steps_of(
    data: taut.data.AbstractSplit, batch_size: int, steps: int, *, seed: int
) -> Iterator[Any]:
    """So many batches of images and labels, epoch after epoch."""
    epochs = (
        taut.data.batches(data, batch_size, seed=seed, epoch=epoch) for epoch in itertools.count()
    )
    return itertools.islice(itertools.chain.from_iterable(epochs), steps)


def opened(recipe: Recipe, folder: Path) -> Run | None:
    """The run in a folder if there is one; refuses one of another recipe."""
    if not (folder / RECIPE).is_file():
        return None
    run = Run.open(folder)
    refuse_other_recipe(recipe, run.recipe, folder)
    return run


def origin(run: Run) -> dict[str, Any] | None:
    """Where a run was trained; None if another command trained it, which does not say."""
    return read(run.path / ENVIRONMENT) or None


def certified(run: Run, eps: Sequence[str]) -> dict[str, Any]:
    """A finished run, as records hold it: accuracies in percent, of the float64 program."""
    data = run.dataset()
    certification = taut.certify(run.model(), data.test.float_images(), data.test.labels, eps)
    return {
        "seed": run.recipe.seed,
        "data": data.label,
        **shares(certification),
        "arithmetic": certification.arithmetic,
        "bound": float(certification.bound),
        "training_seconds": run.history()[-1]["seconds"],
        "trained": origin(run),
    }


def shares(certification: Certification, count: int | None = None) -> dict[str, Any]:
    """Clean and certified accuracy of the first images, in percent."""
    right = (certification.predictions == certification.labels)[:count]
    hits = {
        eps: above(certification.radius[:count], eps) for eps in certification.certified_accuracy
    }
    return {
        "clean": 100 * share(right),
        "certified": {eps: 100 * share(certain) for eps, certain in hits.items()},
    }


def share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation over runs as `certified` describes them."""
    columns = {"clean": [r["clean"] for r in results]}
    for eps in results[0]["certified"]:
        columns[f"certified at {eps}"] = [r["certified"][eps] for r in results]
    columns["training seconds"] = [r["training_seconds"] for r in results]
    return {name: mean_and_deviation(values) for name, values in columns.items()}


def mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
