"""`taut export`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from taut import export as exports
from taut._display import rounded_up
from taut.certification import prove
from taut.cli.model_file import NO_FILE, ModelFile, open_model
from taut.cli.shared import OptionalFolder, OptionalRun, show_certification
from taut.training import RECIPE, Device, choose_device

_ENDINGS = {"torch": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}


def export(
    run: OptionalRun = None,
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = NO_FILE,
    to: Literal["torch", "onnx", "safetensors"],
    output: OptionalFolder = None,
    shrink: bool = False,
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Export the model of a run to a file that does not need taut, with a certificate of that file.

    Freezes the model to plain layers, writes the file, reads it back, and certifies the result on
    the whole test set. `taut certify FILE` verifies it again at any time.

    Example: taut export runs/demo --to onnx

    Example: taut export --model net.py:make --weights net.pt --input-shape 3,32,32 --to onnx
    --output exported

    Args:
        run: the run folder.
        plain: a model in a file; without data its certificate holds no images.
        to: torch writes model.pt2, a program of torch.export; onnx writes model.onnx; safetensors
            writes model.safetensors and model.py, a module of plain torch.
        output: the folder to write to; by default RUN/torch, RUN/onnx or RUN/safetensors. Required
            for a model in a file. Each format needs its own folder, for its certificate.
        shrink: scale each weight by a few units in the last place, so that its proven norm is at
            most 1.
        data_dir: where the data set of the run is now, if it has moved.
        device: auto uses a GPU if there is one, for the certificate.
    """
    if output is None and run is None:
        raise ValueError("`output` must name a folder for a model in a file; got none.")
    folder = output if output is not None else Path(run or "", to)
    target = folder / f"model{_ENDINGS[to]}"
    _check_folder(folder, to)
    opened = None
    if run is None and plain.model is not None and plain.data is None and data_dir is None:
        model, shape = plain.load()
    else:
        opened = open_model(run, plain, device, data_dir)
        model, shape = opened.model, opened.input_shape
    frozen = exports.freeze(model, shape).cpu()
    if shrink:
        exports.shrink_(frozen, shape)
    folder.mkdir(parents=True, exist_ok=True)
    written = exports.export(frozen, target, shape).model.to(choose_device(device))
    if opened is None:
        proved = certificate = prove(written, shape)
    else:
        proved = opened.certify(opened.radii(), model=written)
        certificate = proved.certificate
        show_certification(opened.title(), proved)
    path, _ = proved.save(folder / "certificate.json")
    print(f"\nLipschitz bound in l2: {rounded_up(certificate.bound)}\n")
    print(f"Wrote {target}\nWrote {path}")


def _check_folder(folder: Path, to: str) -> None:
    """Refuse a folder whose certificate is of another file: the new one would replace it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output` must be a folder; got the file {folder}.")
    instead = f"Give another one, such as {folder / to}."
    if (folder / RECIPE).is_file():
        raise ValueError(f"`output` must not be a run folder; got {folder}. {instead}")
    kept = folder / "certificate.json"
    files = {name: folder / f"model{ending}" for name, ending in _ENDINGS.items()}
    others = [file.name for name, file in files.items() if name != to and file.is_file()]
    others += [] if files[to].is_file() else ["another model"]
    if kept.is_file() and others:
        raise ValueError(
            f"`output` must be a folder for {files[to].name} alone; {kept} is of {others[0]}, and "
            f"would be replaced. {instead}"
        )
