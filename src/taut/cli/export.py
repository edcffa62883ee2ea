"""`taut export`."""

from typing import Literal

from taut import deploy
from taut.cli.shared import Device, OptionalFolder, RunFolder, open_run, percent, show_table

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}


def export(
    run: RunFolder,
    *,
    to: Literal["torch", "onnx", "safetensors"],
    output: OptionalFolder = None,
    shrink: bool = False,
    device: Device = "auto",
) -> None:
    """Write the model of a run to a file that needs no taut, with a certificate of that file.

    The model is frozen to plain layers and written; what lies on the disk is read back, and its
    whole test set is certified. Check it again at any time: taut certify FILE.

    Example: taut export runs/demo --to onnx

    Args:
        run: the run folder.
        to: torch writes a program of torch.export, model.pt2; onnx writes model.onnx; safetensors
            writes model.safetensors and model.py, a module of plain torch.
        output: the folder to write to; RUN/torch, RUN/onnx or RUN/safetensors if not given.
        shrink: scale each weight by some units in the last place, to a proved norm of at most 1.
        device: auto takes a GPU if there is one, for the certificate.
    """
    opened = open_run(run, device)
    frozen, shape = deploy.freeze(opened.model).cpu(), opened.data.input_shape
    if shrink:
        deploy.shrink_(frozen, shape)
    folder = run / to if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"model{SUFFIXES[to]}"
    exported = deploy.export(frozen, target, shape)
    model = exported.model.to(opened.test.device)
    found = opened.certify(opened.run.recipe.eps, model=model)
    certificate, _ = found.save(folder / "certificate.json")
    clean = percent(found.clean_accuracy)
    rows = [(str(eps), clean, percent(share)) for eps, share in found.certified_accuracy.items()]
    show_table(opened.title(), ("eps", "clean", "certified"), rows)
    print(
        f"\nLipschitz bound in l2: {float(found.bound):.9g}\n\nWrote {target}\nWrote {certificate}"
    )
