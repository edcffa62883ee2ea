"""`taut predict`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from torch import nn

from taut._display import rounded_down, rounded_up
from taut._zoo import is_zoo_name, zoo_classes, zoo_file
from taut.certification import Arithmetic, Predictions, above, as_rational, predict_batches
from taut.cli.model_file import NO_FILE, ModelFile, check_source
from taut.cli.shared import (
    OptionalFolder,
    OptionalText,
    percent,
    plural,
    progress,
    show_table,
)
from taut.data import class_names, read_inputs
from taut.training import RECIPE, Device, Run, choose_device

_Paths = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE IMAGE ...")
]


def predict(
    paths: _Paths = (),
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = NO_FILE,
    csv: bool = False,
    json: bool = False,
    at_least: OptionalText = None,
    arithmetic: Arithmetic = "float64",
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Print the class of each image, and its certified l2 radius.

    The model comes from a run folder, from a file that `taut export` wrote, or from a Python file.
    Images are JPEG, PNG or WebP files of the size that the model takes, folders of these, or npz
    and npy files, without labels. A run that was trained with --resize resizes pictures as in
    training. For a model that classifies each pixel, the table shows shares of pixels and their
    smallest and median radius. Radii are in units of pixels in [0, 1].

    Example: taut predict runs/demo photo.png scans/

    Example: taut predict runs/demo/onnx/model.onnx photo.png --at-least 36/255

    Example: taut predict --model net.py:make --weights net.pt --input-shape 3,32,32 photo.png

    Args:
        paths: the run folder, the exported file or the model of the zoo (zoo:mnist-small), then the
            images; with --model only images.
        plain: a model in a file.
        csv: print comma-separated values.
        json: print JSON, with the radius to each other class.
        at_least: a radius such as 36/255; exit code 1 if the radius of any image is not larger.
        arithmetic: what the radii hold for: the exported weights run in float64, the model in
            float32, or real numbers only.
        data_dir: where the data set of the run is now, for the names of its classes.
        device: auto uses a GPU if there is one.
    """
    if csv and json:
        raise ValueError("give `csv` or `json`, not both.")
    _check_at_least(at_least)
    model, shape, title, names, files, resize = _opened(list(paths), plain, data_dir)
    like = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    images, batches = read_inputs(files, shape, like, resize=resize)
    place = choose_device(device)
    with progress("predicting", len(images)) as tell:
        moved = (batch.to(place) for batch in batches)
        found = predict_batches(
            model.to(place), moved, shape, arithmetic=arithmetic, on_progress=tell, eps=at_least
        )
    names = names if names is not None and len(names) == found.radii.shape[1] else None
    if csv:
        print(found.to_csv(images=images, names=names), end="")
    elif json:
        print(found.to_json(images=images, names=names))
    else:
        _show(title, found, images, names, at_least)
    if at_least is not None:
        _fail_below(at_least, found, images)


class _Opened(NamedTuple):
    model: nn.Module
    shape: tuple[int, ...]
    title: str
    names: tuple[str, ...] | None
    files: list[Path]
    resize: bool = False


def _opened(paths: list[Path], plain: ModelFile, data_dir: Path | None) -> _Opened:
    """The model with the names of its classes, and the files of images."""
    if plain.data is not None:
        raise ValueError(
            "`data` is for test images with labels; give the image files as arguments."
        )
    run = None
    if plain.model is not None:
        if paths and (paths[0] / RECIPE).is_file():
            check_source(paths[0], plain)
        opened = _Opened(*plain.load(), plain.model, None, paths)
    elif not paths:
        raise ValueError("Give a run folder, an exported file or --model, and then images.")
    elif is_zoo_name(paths[0]):
        loaded = plain.load_exported(zoo_file(paths[0]))
        opened = _Opened(*loaded, str(paths[0]), zoo_classes(paths[0]), paths[1:])
    elif paths[0].is_file():
        opened = _Opened(*plain.load_exported(paths[0]), str(paths[0]), None, paths[1:])
    else:
        check_source(paths[0], plain, files=True)
        run = Run.open(paths[0], data_dir)
        names = class_names(run.recipe.dataset, run.data_dir)
        shape, resize = run.recipe.input_shape, run.recipe.resize
        opened = _Opened(run.model(), shape, str(paths[0]), names, paths[1:], resize)
    if run is None and data_dir is not None:
        raise ValueError("`data_dir` is for a run folder; leave it out.")
    if not opened.files:
        raise ValueError(f"Give the images to predict after {opened.title}.")
    return opened


def _show(
    title: str,
    found: Predictions,
    images: Sequence[str],
    names: Sequence[str] | None,
    at_least: str | None,
) -> None:
    columns: tuple[str, ...] = ("image", "class", "margin", "radius")
    if found.classes.dim() > 1:
        columns = ("image", "most frequent class", "share", "smallest radius", "median radius")
        columns += () if at_least is None else (f"above {at_least}",)
        rows = _map_rows(found, images, names, at_least)
    else:
        rows = [
            (
                *(f"{row[name]}" for name in ("image", "class")),
                f"{row['margin']:.6g}",
                rounded_down(row["radius"]),
            )
            for row in found.rows(images, names)
        ]
    show_table(f"{title}, {plural(len(images), 'image')}", columns, rows)
    if found.classes.dim() > 1:
        places = "x".join(map(str, found.classes.shape[1:]))
        print(f"\nA class and a radius at each of {places} places; --csv and --json print them.")
    print(f"\nLipschitz bound in l2: {rounded_up(found.bound)}")
    print(f"Arithmetic {found.arithmetic}: {found.meaning}.")


def _map_rows(
    found: Predictions, images: Sequence[str], names: Sequence[str] | None, at_least: str | None
) -> list[tuple[str, ...]]:
    """A row for each image whose places have classes of their own: shares of them, and radii."""
    rows = []
    for image, classes, radius in zip(
        images, found.classes.flatten(1), found.radius.flatten(1), strict=True
    ):
        counts = classes.bincount()
        label = int(counts.argmax())
        name = str(label) if names is None else names[label]
        share = percent(int(counts[label]) / len(classes))
        row = (str(image), name, share, *map(rounded_down, (radius.min(), radius.median())))
        shares = [above(radius, eps).double().mean().item() for eps in (at_least,) if eps]
        rows.append((*row, *map(percent, shares)))
    return rows


def _check_at_least(text: str | None) -> None:
    try:
        as_rational(text or "0")
    except ValueError:
        raise ValueError(
            f"`at_least` must be a number >= 0 or a ratio such as 36/255; got {text!r}."
        ) from None


def _fail_below(at_least: str, found: Predictions, images: Sequence[str]) -> None:
    """Raise where a radius does not exceed what is asked for."""
    least = found.radius.flatten(1).amin(1) if found.radius.dim() > 1 else found.radius
    below = (~above(least, at_least)).nonzero().flatten().tolist()
    if below:
        where, which = ("", "") if found.radius.dim() == 1 else (" at all places", "smallest ")
        raise RuntimeError(
            f"{len(below)} of {plural(len(images), 'image')} are not certified{where} at "
            f"{at_least}, the first is {images[below[0]]}: its {which}radius is "
            f"{least[below[0]]:.6g}."
        )
