"""`taut inspect`."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import tyro
from torch import Tensor

from taut import diagnostics, plot
from taut.cli.model_file import NO_FILE, ModelFile, check_source
from taut.cli.shared import OptionalFolder, Runs, check_output, plural, show_table
from taut.data import load_test
from taut.diagnostics import Inspection, LayerDiagnostics, five_numbers, histogram
from taut.training import Device, OpenedRun, check_limit, choose_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCKS = " ▁▂▃▄▅▆▇█"


def inspect(
    runs: Runs = (),
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = NO_FILE,
    limit: int = 200,
    output: OptionalFolder = None,
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Show where a model loses gradient norm: layer by layer, and from image to output.

    Prints, for each layer, its singular values before and after training, and the norm of the
    gradient at its input relative to that at the output: for the margin, and for all directions of
    the output. Prints the singular values of the Jacobian from image to output; if all are 1, the
    model preserves gradient norms. Saves a figure in the run folder; several runs are compared in
    one figure.

    Example: taut inspect runs/demo

    Example: taut inspect runs/mine-bcop runs/mine-rko --output side-by-side.png

    Example: taut inspect --model net.py:make --weights net.safetensors --input-shape 3,32,32

    Args:
        runs: run folders.
        plain: a model in a file.
        limit: number of test images, the first ones.
        output: file of the figure; by default in the first run folder.
        data_dir: where the data set of the runs is now, if it has moved.
        device: auto uses a GPU if there is one.
    """
    check_limit(limit)
    check_output(output)
    for run in runs or (None,):
        check_source(run, plain)
    if not runs:
        _inspect_file(plain, limit, output, choose_device(device))
        return
    opened = [OpenedRun.open(folder, device=device, data_dir=data_dir) for folder in runs]
    if len(opened) == 1:
        _inspect_run(opened[0], limit, output)
    else:
        _compare(opened, limit, output)


def _inspect_run(opened: OpenedRun, limit: int, output: Path | None) -> None:
    images, labels = opened.head(limit)
    inspection = diagnostics.inspect(opened.model, images, labels)
    initial = opened.run.initial_model(images.device)
    before = diagnostics.spectra(initial, tuple(images.shape[1:]))
    _show(opened.title(len(images)), inspection, before)
    target = output or opened.run.path / "inspection.png"
    _save(plot.inspection(inspection, before), target)


def _compare(opened_runs: Sequence[OpenedRun], limit: int, output: Path | None) -> None:
    runs: dict[str, Inspection] = {}
    for opened in opened_runs:
        folder = name = opened.run.path.resolve().name
        numbers = itertools.count(2)
        while name in runs:
            name = f"{folder} ({next(numbers)})"
        runs[name] = diagnostics.inspect(opened.model, *opened.head(limit))
    names = ("run", "at the image: margin", "all", "Jacobian: least", "median", "largest")
    rows = [(name, *_summary(inspection)) for name, inspection in runs.items()]
    title = f"Gradient norm and Jacobian, {plural(limit, 'test image')} each"
    show_table(title, names, rows)
    profiles = {name: diagnostics.gradient_profile(one) for name, one in runs.items()}
    target = output or opened_runs[0].run.path / "attenuation.png"
    _save(plot.profiles({"": profiles}), target)


def _inspect_file(plain: ModelFile, limit: int, output: Path | None, device: torch.device) -> None:
    model, shape = plain.load()
    model = model.to(device)
    images, labels = _inputs(plain.data, shape, limit)
    dtype = next((p.dtype for p in model.parameters()), images.dtype)
    images, labels = images.to(device, dtype), None if labels is None else labels.to(device)
    try:  # on a copy: the forward pass of a stranger's model may write to it
        with torch.no_grad():
            copy.deepcopy(model)(images[:1])
    except RuntimeError as error:
        text = ",".join(map(str, shape))
        raise ValueError(f"`input_shape` must fit the model; with {text}: {error}") from None
    inspection = diagnostics.inspect(model, images, labels)
    kind = "test image" if plain.data else "image"
    noise = "" if plain.data else " of noise"
    _show(f"{plain.model}, {plural(len(images), kind)}{noise}", inspection)
    if output is not None:
        _save(plot.inspection(inspection), output)


def _inputs(data: Path | None, shape: tuple[int, ...], limit: int) -> tuple[Tensor, Tensor | None]:
    if data is None:
        return torch.rand(
            limit, *shape, generator=torch.Generator().manual_seed(0), device="cpu"
        ), None
    images, labels = (tensor[:limit] for tensor in load_test("npz", data, shape=shape))
    if images.shape[1:] != shape:
        got = ",".join(map(str, images.shape[1:]))
        raise ValueError(f"`input_shape` must be that of the images in {data}; they are {got}.")
    return images, labels


def _show(title: str, inspection: Inspection, before: Mapping[str, Tensor] | None = None) -> None:
    names = ("layer", "input", "smallest", "largest", "values 0 to 1.2", "margin", "all")
    old = before or {}
    rows = [row for layer in inspection.layers for row in _rows(layer, old.get(layer.label))]
    show_table(f"{title}: singular values, gradient norm", names, rows)
    if not all(layer.whole for layer in inspection.layers):
        print("* in a branch: the norm of its share of the gradient")
    if inspection.jacobian is None:
        most = diagnostics.MAX_JACOBIAN_OUTPUTS
        print(f"\nNo Jacobian: the model has more than {most} outputs.\n")
        return
    least, low, middle, high, most = map(_norm, five_numbers(inspection.jacobian))
    bars = text_histogram(histogram(inspection.jacobian))
    count = inspection.jacobian.shape[1]
    print(f"\nJacobian, {count} singular values per image: |{bars}| 0 to 1.2")
    print(f"{least} to {most}, half of them in {low} to {high}, median {middle}\n")


def _rows(layer: LayerDiagnostics, old: Tensor | None) -> list[tuple[str, ...]]:
    """The layer's row; a second one for its spectrum before training, if that was different."""
    label = layer.label if layer.whole else f"{layer.label} *"
    shape = "x".join(map(str, layer.input_shape))
    norms = _norm(layer.margin), _norm(layer.random)
    rows = [(label, shape, *_spectrum(layer.spectrum), *norms)]
    if old is None or layer.spectrum is None or (old - layer.spectrum).abs().max() <= 1e-3:
        return rows
    return [*rows, ("", "before", *_spectrum(old), "", "")]


def _spectrum(values: Tensor | None) -> tuple[str, str, str]:
    if values is None:
        return "-", "-", ""
    return f"{values.min():.6f}", f"{values.max():.6f}", text_histogram(histogram(values))


def _summary(inspection: Inspection) -> tuple[str, ...]:
    """Gradient norms at the image; smallest, median and largest singular value."""
    first, jacobian = inspection.layers[0], inspection.jacobian
    ends = ["-"] * 3 if jacobian is None else map(_norm, five_numbers(jacobian)[::2])
    return (_norm(first.margin), _norm(first.random), *ends)


def _norm(value: float) -> str:
    """Four decimals, or an exponent where those would show nothing.

    Example:
        >>> _norm(0.99996), _norm(0.0), _norm(1.234e-9), _norm(54321.0)
        ('1.0000', '0.0000', '1.2e-09', '5.4e+04')
    """
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def _save(figure: "Figure", target: Path) -> None:
    figure.savefig(target)
    print(f"Wrote {target}")


def text_histogram(counts: Sequence[int]) -> str:
    """Draw counts as a row of blocks; a count that is not zero is visible.

    Example:
        >>> text_histogram([0, 1, 100])
        ' ▁█'
    """
    most = max(counts, default=0)
    return "".join(_BLOCKS[-(-8 * count // most)] if count else " " for count in counts)
