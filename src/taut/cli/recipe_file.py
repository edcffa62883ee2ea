"""`taut train --init`: a recipe to edit, whose shape and classes are those of the data."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

from taut.cli.shared import progress
from taut.data import load
from taut.files import write_atomically
from taut.losses import OffsetCrossEntropy
from taut.training import Recipe


def first_recipe(path: Path, arguments: list[str]) -> Recipe:
    """The recipe that options change, for a data set that is named or told by its place."""
    if path.suffix != ".json":
        raise ValueError(f"`--init` must be a new file that ends in .json; got {path}.")
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name.")
    dataset, place = (_value(arguments, flag) for flag in ("--dataset", "--data-dir"))
    if dataset is None:
        if place is None:
            raise ValueError(
                "`--init` needs --data-dir, images by class or an npz file, or --dataset."
            )
        dataset = "npz" if place.endswith(".npz") else "folder"
    loss = OffsetCrossEntropy()
    return Recipe(name=path.stem, dataset=dataset, loss=loss, eps=("36/255", "72/255", "108/255"))


def write_recipe(path: Path, recipe: Recipe, data_dir: Path | None, *, shaped: bool) -> None:
    """Write the recipe with the shape and the classes of the data, and say how to train it."""
    if recipe.resize and not shaped:
        raise ValueError("`resize` needs `input_shape`, the size to resize to.")
    with progress("reading images", 0) as tell:
        data = load(
            recipe.dataset,
            data_dir,
            holdout=recipe.holdout,
            shape=recipe.image_shape,
            on_progress=tell,
        )
    if shaped and data.input_shape != recipe.input_shape:
        raise ValueError(
            f"`input_shape` must be that of the images, {data.input_shape}, or leave it out; got "
            f"{recipe.input_shape}."
        )
    recipe = replace(recipe, input_shape=data.input_shape, classes=len(data.classes))
    recipe.build_model()  # whatever is wrong with it is said now
    for file in recipe.files:
        beside = path.parent / file.name
        if not beside.is_file() or beside.read_bytes() != file.content:
            raise ValueError(f"{file.name} must lie beside {path}, which names it.")
    values = json.loads(recipe.to_json())
    for part in values.values():
        if isinstance(part, dict):
            part.pop("sha256", None)  # so that the file may be edited, too
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())
    shape = "x".join(map(str, data.input_shape))
    words = ["taut", "train", str(path)]
    words += [] if data_dir is None else ["--data-dir", str(data_dir)]
    print(
        f"Wrote {path}: {data.label}, {len(data.train):,} + {len(data.test):,} images of {shape}, "
        f"{len(data.classes)} classes.\nEdit it, and then: {shlex.join(words)}"
    )


def _value(arguments: list[str], flag: str) -> str | None:
    """The value of a flag, wherever it stands."""
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else next(words, None)
    return None
