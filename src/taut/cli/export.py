"""`taut export`."""

from typing import Literal

from taut import export as exports
from taut.cli.shared import OptionalFolder, RunFolder, show_certification
from taut.training import Device, OpenedRun

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}


def export(
    run: RunFolder,
    *,
    to: Literal["torch", "onnx", "safetensors"],
    output: OptionalFolder = None,
    shrink: bool = False,
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Write the model of a run to a file that needs no taut, with a certificate of that file.

    Freezes the model to plain layers, writes it, reads the file back, and certifies what was read
    on the whole test set. Check it again at any time: taut certify FILE.

    Example: taut export runs/demo --to onnx

    Args:
        run: the run folder.
        to: torch writes a program of torch.export, model.pt2; onnx writes model.onnx; safetensors
            writes model.safetensors and model.py, a module of plain torch.
        output: the folder to write to; RUN/torch, RUN/onnx or RUN/safetensors by default.
        shrink: scale each weight by a few units in the last place, to a proved norm of at most 1.
        data_dir: where the data set of the run is now, if it has moved.
        device: auto uses a GPU if there is one, for the certificate.
    """
    opened = OpenedRun.open(run, device=device, data_dir=data_dir)
    frozen, shape = exports.freeze(opened.model).cpu(), opened.data.input_shape
    if shrink:
        exports.shrink_(frozen, shape)
    folder = run / to if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"model{SUFFIXES[to]}"
    exported = exports.export(frozen, target, shape)
    model = exported.model.to(opened.test.device)
    certification = opened.certify(opened.run.recipe.eps, model=model)
    certificate, _ = certification.save(folder / "certificate.json")
    show_certification(opened.title(), certification)
    print(f"\nLipschitz bound in l2: {float(certification.bound):.9g}\n")
    print(f"Wrote {target}\nWrote {certificate}")
