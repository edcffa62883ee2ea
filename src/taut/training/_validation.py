"""The images of a run: whether they fit, which each epoch is judged on, the test at the end."""

import json
from dataclasses import replace
from typing import TypeVar

from taut.data import AbstractSplit, Dataset, Holdout, StreamedDataset
from taut.files import write_atomically
from taut.training._evaluation import Evaluation
from taut.training._recipe import Recipe
from taut.training._run import TEST, Run

_Data = TypeVar("_Data", bound=Dataset | StreamedDataset)


def divide(data: _Data, recipe: Recipe) -> tuple[_Data, AbstractSplit]:
    """The data with the images to train on, and the images that each epoch is judged on.

    A `validation` share of the training images, drawn by the seed of the recipe and never trained
    on; the test images if the share is 0.

    Raises:
        ValueError: if the share leaves no image on one of the sides.
    """
    if not recipe.validation:
        return data, data.test
    count = round(len(data.train) * recipe.validation)
    if not 0 < count < len(data.train):
        raise ValueError(
            f"`validation` must leave images on both sides of {len(data.train)}; got "
            f"{recipe.validation}."
        )
    kept, held_out = Holdout(recipe.validation, recipe.seed).choose(len(data.train))
    return replace(data, train=data.train.pick(kept)), data.train.pick(held_out)


def check_fit(recipe: Recipe, data: Dataset | StreamedDataset) -> None:
    """Refuse data that are not those of the recipe."""
    if data.input_shape != recipe.input_shape or len(data.classes) != recipe.classes:
        raise ValueError(
            f"`input_shape` and `classes` must be those of {data.name}, {data.input_shape} and "
            f"{len(data.classes)}; got {recipe.input_shape} and {recipe.classes}."
        )


def write_test(run: Run, step: int, evaluation: Evaluation) -> None:
    """Write test.json: the accuracies of the last model on the test images, as in metrics.csv."""
    certified = evaluation.certified_accuracy.items()
    values = {
        "step": step,
        "clean_accuracy": evaluation.clean_accuracy,
        **{f"certified_accuracy_{eps}": share for eps, share in certified},
        "bound": evaluation.bound,
    }
    write_atomically(run.path / TEST, (json.dumps(values, indent=2) + "\n").encode())
