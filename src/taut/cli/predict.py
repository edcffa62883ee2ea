"""`taut predict`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from torch import nn

from taut.certification import Arithmetic, Predictions, above, as_rational, predict_batches
from taut.cli.model_file import NO_FILE, ModelFile
from taut.cli.shared import OptionalFolder, OptionalText, progress, show_table
from taut.data import class_names, read_inputs
from taut.training import Device, Run, choose_device

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
    """Print the class of each image, and the l2 distance within which nothing changes it.

    The model is that of a run folder, of a file that `taut export` wrote, or one in a Python file.
    Images are JPEG, PNG or WebP files of the size that the model takes, folders of these, and npz
    or npy files; no label is needed. Radii are in units of pixels in [0, 1].

    Example: taut predict runs/demo photo.png scans/

    Example: taut predict runs/demo/onnx/model.onnx photo.png --at-least 36/255

    Example: taut predict --model net.py:make --weights net.pt --input-shape 3,32,32 photo.png

    Args:
        paths: the run folder or the exported file, and then the images; with --model images alone.
        plain: a model in a file.
        csv: print comma-separated values.
        json: print JSON, with the radius to each other class.
        at_least: a radius such as 36/255; exit code 1 if that of any image is not above it.
        arithmetic: what the radii hold for: the exported weights run in float64, the model in
            float32, or real numbers only.
        data_dir: where the data set of the run is now, for the names of its classes.
        device: auto uses a GPU if there is one.
    """
    if csv and json:
        raise ValueError("`csv` and `json` are two forms of one output; give one of them.")
    _check_at_least(at_least)
    model, shape, title, names, files = _opened(list(paths), plain, data_dir)
    like = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    images, batches = read_inputs(files, shape, like)
    place = choose_device(device)
    with progress("predicting", len(images)) as tell:
        moved = (batch.to(place) for batch in batches)
        found = predict_batches(
            model.to(place), moved, shape, arithmetic=arithmetic, on_progress=tell, eps=at_least
        )
    if found.classes.dim() > 1:
        raise ValueError(
            "The model answers at each place of an image; taut.predict in Python gives the maps."
        )
    names = names if names is not None and len(names) == found.radii.shape[1] else None
    if csv:
        print(found.to_csv(images=images, names=names), end="")
    elif json:
        print(found.to_json(images=images, names=names))
    else:
        _show(title, found, images, names)
    if at_least is not None:
        _fail_below(at_least, found, images)


class _Opened(NamedTuple):
    model: nn.Module
    shape: tuple[int, ...]
    title: str
    names: tuple[str, ...] | None
    files: list[Path]


def _opened(paths: list[Path], plain: ModelFile, data_dir: Path | None) -> _Opened:
    """The model with the names of its classes, and the files of images."""
    if plain.data is not None:
        raise ValueError("`data` is for test images with labels; name the images themselves.")
    run = None
    if plain.model is not None:
        opened = _Opened(*plain.load(), plain.model, None, paths)
    elif not paths:
        raise ValueError("Give a run folder, an exported file or --model, and then images.")
    elif paths[0].is_file():
        opened = _Opened(*plain.load_exported(paths[0]), str(paths[0]), None, paths[1:])
    else:
        plain.refuse_beside_run()
        run = Run.open(paths[0], data_dir)
        names = class_names(run.recipe.dataset, run.data_dir)
        opened = _Opened(run.model(), run.recipe.input_shape, str(paths[0]), names, paths[1:])
    if run is None and data_dir is not None:
        raise ValueError("`data_dir` is for a run folder; leave it out.")
    if not opened.files:
        raise ValueError(f"Give the images to predict after {opened.title}.")
    return opened


def _show(
    title: str, found: Predictions, images: Sequence[str], names: Sequence[str] | None
) -> None:
    rows = [
        (str(row["image"]), str(row["class"]), f"{row['margin']:.6g}", f"{row['radius']:.6g}")
        for row in found.rows(images, names)
    ]
    show_table(f"{title}, {len(images):,} images", ("image", "class", "margin", "radius"), rows)
    print(f"\nLipschitz bound in l2: {float(found.bound):.9g}")
    print(f"Arithmetic {found.arithmetic}: {found.meaning}.")


def _check_at_least(text: str | None) -> None:
    try:
        as_rational(text or "0")
    except ValueError:
        raise ValueError(
            f"`at_least` must be a number >= 0 or a ratio such as 36/255; got {text!r}."
        ) from None


def _fail_below(at_least: str, found: Predictions, images: Sequence[str]) -> None:
    """Raise where a radius does not exceed what is asked for."""
    below = (~above(found.radius, at_least)).nonzero().flatten().tolist()
    if below:
        raise RuntimeError(
            f"{len(below)} of {len(images)} images are not certified at {at_least}, the first is "
            f"{images[below[0]]}: its radius is {found.radius[below[0]]:.6g}."
        )
