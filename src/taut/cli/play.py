"""`taut play`."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor, nn

import taut
from taut._zoo import PREFIX, is_zoo_name, manifest, zoo_classes, zoo_file
from taut.certification import prove
from taut.cli.model_file import NO_FILE, ModelFile, open_model
from taut.cli.report import versions
from taut.cli.shared import OptionalFolder, OptionalRun, OptionalText
from taut.data import class_names
from taut.playground import Contrast, PlaygroundInputs, plain_net, write_playground
from taut.training import OpenedRun


@dataclass(frozen=True)
class _Source:
    """A net with its test images."""

    title: str
    model: nn.Module
    shape: tuple[int, ...]
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    kind: str
    dataset: str


def play(
    run: OptionalRun = None,
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = NO_FILE,
    out: OptionalFolder = None,
    beside: OptionalText = None,
    images: int = 30,
    data_dir: OptionalFolder = None,
) -> None:
    """Write one HTML page in which a net runs, certifies pictures and is attacked.

    The page needs no server and no network. It shows class, margin and proved radius of test images
    or of a drawing, searches for adversarial examples, and maps the classes around a picture. The
    page of a run is play.html in its folder; any other is play.html here. A net that was trained
    without constraints stands beside it, for contrast.

    Example: taut play zoo:mnist-small

    Example: taut play runs/demo --beside none

    Args:
        run: the run folder, a file that `taut export` wrote (it needs data), or a model of the zoo
            (zoo:mnist-small).
        plain: a model in a file; it needs data.
        out: the page, if another.
        beside: the net for contrast: a run folder, an exported file, a model of the zoo, or none;
            by default a plain net of the same data set, where taut has one.
        images: number of test images to choose from.
        data_dir: where the data set of the run is now, if it has moved.
    """
    if images < 1:
        raise ValueError(f"`images` must be at least 1; got {images}.")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ValueError(f"`out` must be a file in a folder that exists; got {out}.")
    source = _opened(run, plain, data_dir)
    folder = run if run is not None and not is_zoo_name(run) and run.is_dir() else Path()
    chosen = _chosen(source.labels, images)
    inputs = PlaygroundInputs(
        title=source.title,
        dataset=source.dataset,
        certificate=prove(source.model.cpu(), source.shape),
        images=source.images[chosen].cpu(),
        labels=source.labels[chosen].cpu(),
        classes=source.classes,
        contrast=_contrast(source, beside),
        command=_command(run, plain, beside, images),
        versions=versions(),
    )
    page = write_playground(folder / "play.html" if out is None else out, inputs)
    print(f"Wrote {page} ({page.stat().st_size / 1e6:.2f} MB)")


def _opened(run: Path | None, plain: ModelFile, data_dir: Path | None) -> _Source:
    """The net of a run, of the zoo or of a file, with test images."""
    if run is not None and is_zoo_name(run):
        plain.refuse_beside_run()
        return _of_zoo(str(run), data_dir)
    opened = open_model(run, plain, "cpu", data_dir, files=True)
    if isinstance(opened, OpenedRun):
        images, labels = opened.head(len(opened.test))
        recipe, names, label = opened.run.recipe, opened.data.classes, opened.data.label
        shape, kind = opened.input_shape, recipe.dataset
        return _Source(recipe.name, opened.model, shape, images, labels, names, kind, label)
    names = class_names("npz", opened.data) or ()
    title = Path(opened.name).name
    return _Source(
        title, opened.model, opened.input_shape, opened.test, opened.labels, names, "npz",
        opened.data.stem,
    )  # fmt: skip


def _of_zoo(name: str, data_dir: Path | None) -> _Source:
    """A net of the zoo with the test images that its certificate is about."""
    if data_dir is not None:
        raise ValueError("`data_dir` is for a run folder; a model of the zoo has its own images.")
    model, shape = NO_FILE.load_exported(zoo_file(name))
    certificate = json.loads(zoo_file(name, "certificate.json").read_text())
    recipe = json.loads(zoo_file(name, "recipe.json").read_text())
    with np.load(zoo_file(name, "points.npz")) as points:
        images = torch.from_numpy(points["images"])
    labels, title = torch.tensor(certificate["labels"]), name.removeprefix(PREFIX)
    kind, label = recipe["data"]["kind"], manifest()[title]["data"]
    return _Source(title, model, shape, images, labels, zoo_classes(name), kind, label)


def _chosen(labels: Tensor, count: int) -> Tensor:
    """Places of images of all classes in turn, the first ones of each, sorted by class."""
    seen: dict[int, int] = {}
    turns = []
    for place, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], label, place))
    first = sorted(turns)[:count]
    return torch.tensor([place for _, _, place in sorted(first, key=lambda t: (t[1], t[2]))])


def _contrast(source: _Source, beside: str | None) -> Contrast | None:
    """The net beside the first one: the one asked for, or a plain one of the same data set."""
    if beside == "none":
        return None
    if beside is not None:
        model = taut.load(beside).cpu()
        about = f"{Path(beside).name}, given to stand beside."
        try:
            certificate = prove(model, source.shape)
        except ValueError as error:
            if "`input_shape` does not fit" not in str(error):
                raise
            raise ValueError(
                f"`beside` must be a net that takes inputs of {source.shape}; got {beside}."
            ) from None
        return Contrast(name="Beside it", about=about, certificate=certificate)
    found = plain_net(source.kind)
    if found is None:
        return None
    model, about = found
    certificate = prove(model, source.shape)
    return Contrast(name="Without constraints", about=about, certificate=certificate)


def _command(run: Path | None, plain: ModelFile, beside: str | None, images: int) -> str:
    """What makes the page again."""
    given = {name: value for name, value in vars(plain).items() if value is not None}
    options = given | ({} if beside is None else {"beside": beside})
    options |= {} if images == 30 else {"images": images}
    words = [
        word for name, v in options.items() for word in (f"--{name.replace('_', '-')}", str(v))
    ]
    return shlex.join(["taut", "play", *([] if run is None else [str(run)]), *words])
