"""`taut inspect`."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from taut.cli.model_file import load_model, parse_shape
from taut.cli.shared import Device, check_limit, open_run, show_table
from taut.data import load
from taut.report import (
    Inspection,
    LayerInspection,
    five_numbers,
    inspect_layers,
    inspect_model,
    profile,
    save_attenuation,
    save_inspection,
)
from taut.report.attenuation import MOST_OUTPUTS
from taut.report.inspection import histogram
from taut.training import choose_device

_BLOCKS = " ▁▂▃▄▅▆▇█"
_Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
_Path = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
_Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]


@dataclass(frozen=True)
class ModelFile:
    """Any torch model, instead of a run.

    Args:
        model: FILE.py:FUNCTION, which makes the model; the file is run.
        weights: safetensors file with its state.
        input_shape: of one input, such as 3,32,32.
        data: npz file with test images; without it, the inputs are noise, uniform in [0, 1].
    """

    model: _Text = None
    weights: _Path = None
    input_shape: _Text = None
    data: _Path = None


def inspect(
    runs: _Runs = (),
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = ModelFile(),
    limit: int = 200,
    output: _Path = None,
    device: Device = "auto",
) -> None:
    """Show where a model loses its gradient: layer by layer, and from image to output.

    For each layer its singular values, before training and now, and the norm of the gradient at
    its input over that at the output: of the margin, and over all directions of the output. Then
    the singular values of the Jacobian from image to output. 1 everywhere: nothing is lost.
    Draws a figure into the run folder; of several runs one figure, side by side.

    Example: taut inspect runs/demo

    Example: taut inspect runs/mine-bcop runs/mine-rko --output side-by-side.png

    Example: taut inspect --model net.py:make --weights net.safetensors --input-shape 3,32,32

    Args:
        runs: run folders.
        plain: a model in a file.
        limit: look at the first so many test images.
        output: where to draw; into the first run folder if not given.
        device: auto takes a GPU if there is one.
    """
    check_limit(limit)
    if bool(runs) == (plain.model is not None):
        raise ValueError("Give run folders, or a model with --model FILE.py:FUNCTION.")
    if not runs:
        _inspect_file(plain, limit, output, choose_device(device))
        return
    if plain != ModelFile():
        raise ValueError("A run folder has its own model and data; leave out the options of files.")
    if len(runs) == 1:
        _inspect_run(runs[0], limit, output, device)
    else:
        _compare(runs, limit, output, device)


def _inspect_run(folder: Path, limit: int, output: Path | None, device: Device) -> None:
    opened = open_run(folder, device)
    images, labels = opened.head(limit)
    found = inspect_model(opened.model, images, labels)
    before = inspect_layers(opened.run.initial_model(images.device), images, labels)
    _show(opened.title(len(images)), found, before)
    _say_wrote(save_inspection(output or opened.run.path / "inspection.png", found, before))


def _compare(folders: Sequence[Path], limit: int, output: Path | None, device: Device) -> None:
    found: dict[str, Inspection] = {}
    for folder in folders:
        opened = open_run(folder, device)
        name = _unused(opened.run.path.resolve().name, found)
        found[name] = inspect_model(opened.model, *opened.head(limit))
    names = ("run", "at the image: margin", "all", "Jacobian: least", "median", "largest")
    rows = [(name, *_summary(one)) for name, one in found.items()]
    show_table(f"Gradient norm and Jacobian, {limit:,} test images each", names, rows)
    target = output or folders[0] / "attenuation.png"
    _say_wrote(save_attenuation(target, {"": {name: profile(one) for name, one in found.items()}}))


def _inspect_file(plain: ModelFile, limit: int, output: Path | None, device: torch.device) -> None:
    if plain.model is None or plain.input_shape is None:
        raise ValueError("`--model` needs `--input-shape`, such as 3,32,32.")
    shape = parse_shape(plain.input_shape)
    model = load_model(plain.model, plain.weights).to(device)
    images, labels = _inputs(plain.data, shape, limit)
    labels = None if labels is None else labels.to(device)
    _check_fits(model, images[:1].to(device), plain.input_shape)
    found = inspect_model(model, images.to(device), labels)
    _show(f"{plain.model}, {len(images):,} {'test images' if plain.data else 'of noise'}", found)
    if output is not None:
        _say_wrote(save_inspection(output, found))


def _check_fits(model: nn.Module, image: Tensor, shape: str) -> None:
    """Refuse a shape that the model does not take; the caller's model stays as it is."""
    try:
        with torch.no_grad():
            copy.deepcopy(model).eval()(image)
    except RuntimeError as error:
        raise ValueError(f"`--input-shape` must fit the model; with {shape}: {error}") from None


def _inputs(data: Path | None, shape: tuple[int, ...], limit: int) -> tuple[Tensor, Tensor | None]:
    if data is None:
        return torch.rand(limit, *shape, generator=torch.Generator().manual_seed(0)), None
    test = load("npz", data).test
    images, labels = test.float_images()[:limit], test.labels[:limit]
    if images.shape[1:] != shape:
        got = ",".join(map(str, images.shape[1:]))
        raise ValueError(f"`--input-shape` must be that of the images in {data}; they are {got}.")
    return images, labels


def _show(title: str, found: Inspection, before: Sequence[LayerInspection] = ()) -> None:
    past = {(layer.name, layer.gradient.call): layer for layer in before}
    names = ("layer", "input", "smallest", "largest", "values 0 to 1.2", "margin", "all")
    rows = []
    for layer in found.layers:
        gradient = layer.gradient
        shape = "x".join(map(str, layer.input_shape))
        norms = _norm(gradient.margin), _norm(gradient.random)
        label = gradient.label if gradient.whole else f"{gradient.label} *"
        rows.append((label, shape, *_spectrum(layer), *norms))
        old = past.get((layer.name, gradient.call))
        if old is not None and _differs(old.spectrum, layer.spectrum):
            rows.append(("", "before", *_spectrum(old), "", ""))
    show_table(f"{title}: singular values, gradient norm", names, rows)
    if not all(layer.gradient.whole for layer in found.layers):
        print("* in a branch: the norm of its share of the gradient")
    if found.jacobian is None:
        print(f"\nNo Jacobian: the model has more than {MOST_OUTPUTS} outputs.\n")
    else:
        least, low, middle, high, most = map(_norm, five_numbers(found.jacobian))
        count = found.jacobian.shape[1]
        bars = text_histogram(histogram(found.jacobian))
        print(f"\nSingular values of the Jacobian, {count} an image: |{bars}| 0 to 1.2")
        print(f"{least} to {most}, half of them in {low} to {high}, median {middle}\n")


def _spectrum(layer: LayerInspection) -> tuple[str, str, str]:
    if layer.spectrum is None:
        return "-", "-", ""
    ends = float(layer.spectrum.min()), float(layer.spectrum.max())
    return f"{ends[0]:.6f}", f"{ends[1]:.6f}", text_histogram(layer.histogram())


def _differs(old: Tensor | None, new: Tensor | None) -> bool:
    """Whether training has moved a singular value so far that it shows."""
    return old is not None and new is not None and bool((old - new).abs().max() > 1e-3)


def _summary(found: Inspection) -> tuple[str, ...]:
    """Gradient norms at the image; smallest, median and largest singular value."""
    first = found.layers[0].gradient
    ends = ("-",) * 3
    if found.jacobian is not None:
        ends = tuple(_norm(value) for value in five_numbers(found.jacobian)[::2])
    return (_norm(first.margin), _norm(first.random), *ends)


def _norm(value: float) -> str:
    """As few characters as tell a gradient that is kept from one that is lost.

    Example:
        >>> _norm(0.99996), _norm(0.0), _norm(1.234e-9), _norm(54321.0)
        ('1.0000', '0.0000', '1.2e-09', '5.4e+04')
    """
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def _unused(name: str, taken: Mapping[str, Inspection]) -> str:
    """The name, with a number where another run has it."""
    names = (name, *(f"{name} ({i})" for i in range(2, len(taken) + 2)))
    return next(name for name in names if name not in taken)


def _say_wrote(target: Path) -> None:
    print(f"Wrote {target}")


def text_histogram(counts: Sequence[int]) -> str:
    """Draw counts as a row of blocks; what is not zero shows.

    Example:
        >>> text_histogram([0, 1, 100])
        ' ▁█'
    """
    most = max(counts, default=0)
    return "".join(_BLOCKS[-(-8 * count // most)] if count else " " for count in counts)
