"""`taut certify`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro

from taut import certification as proofs
from taut._display import rounded_up
from taut._zoo import located
from taut.certification import Arithmetic, Certificate, Certification
from taut.cli.model_file import NO_FILE, ModelFile, check_source, opened_file
from taut.cli.progress import show_bounding
from taut.cli.shared import Eps, OptionalFolder, OptionalRun, check_output, show_certification
from taut.program import ProgramModule, lipschitz_bound
from taut.training import Device, OpenedRun, choose_device


def certify(
    run: OptionalRun = None,
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = NO_FILE,
    output: OptionalFolder = None,
    arithmetic: Arithmetic = "float64",
    eps: Eps = (),
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Certify a model: print the certified accuracy on test images at l2 radii.

    For a run, writes certificate.json and the certified weights, certificate.safetensors, into its
    folder. For a model in a file, prints the proven Lipschitz constant, layer by layer. For an
    exported file, certifies the model in that file and verifies the certificate beside it.

    Example: taut certify runs/demo --eps 0.1 36/255

    Example: taut certify --model net.py:make --weights net.safetensors --input-shape 3,32,32

    Example: taut certify runs/demo/onnx/model.onnx

    Args:
        run: the run folder, a file that `taut export` wrote, or a model of the zoo
            (zoo:mnist-small).
        plain: a model in a file.
        output: file for the certificate of a model in a file; its weights are saved beside it.
        arithmetic: what the radii hold for: the exported weights run in float64, the model in
            float32, or real numbers only.
        eps: l2 radii for pixels in [0, 1]; by default those of the recipe.
        data_dir: where the data set of the run is now, if it has moved.
        device: auto uses a GPU if there is one.
    """
    run = None if run is None else located(run)
    check_source(run, plain, files=True)
    if run is None or run.is_file():
        _check_output(output, [run, plain.weights])
        if data_dir is not None:
            raise ValueError("`data_dir` is for a run folder; give test images with --data.")
        if eps and plain.data is None:
            raise ValueError("`eps` needs `data`, an npz file with test images.")
        proved = _certify_file(run, plain, arithmetic, eps, choose_device(device))
        if output is not None:
            print(f"\nWrote {proved.save(output)[0]}")
        return
    if output is not None:
        raise ValueError("`output` is for a model in a file; leave it out: a run has a folder.")
    opened = OpenedRun.open(run, device=device, data_dir=data_dir)
    certification = opened.certify(opened.radii(eps), arithmetic)
    target, _ = certification.save(run / "certificate.json")
    show_certification(opened.title(), certification)
    print(f"\n{_bound(certification.certificate)}\n\nWrote {target}")


def _certify_file(
    exported: Path | None,
    plain: ModelFile,
    arithmetic: Arithmetic,
    eps: Sequence[str],
    device: torch.device,
) -> Certificate | Certification:
    model, shape = plain.load() if exported is None else plain.load_exported(exported)
    beside = None if exported is None else exported.with_name("certificate.json")
    if exported is not None and beside is not None and beside.is_file():
        verified = proofs.verify(beside, model)
        print(f"{beside} holds for {exported.name}: bound {rounded_up(verified.bound)}.\n")
    model, sharp = model.to(device), None
    if plain.data is None:
        with show_bounding() as progress:
            certificate = proofs.prove(model, shape, arithmetic=arithmetic, progress=progress)
            sharp = lipschitz_bound(model, shape, progress=progress)
        proved = certificate
    else:
        opened = opened_file("", model, shape, plain.data, device)
        proved = opened.certify(opened.radii(eps), arithmetic)
        certificate = proved.certificate
        show_certification(opened.title(), proved)
        print()
    print(_bound(certificate))
    if sharp is not None and float(sharp) < float(certificate.bound) * (1 - 1e-3):
        print(
            f"\ntaut.lipschitz_bound, which proves more than certificates hold: {rounded_up(sharp)}"
        )
    if isinstance(model, ProgramModule) and model.any_size:
        size = ",".join(map(str, shape))
        print(f"\nThe file takes other sizes, too: this holds for {size} alone (--input-shape).")
    return proved


def _check_output(output: Path | None, read: Sequence[Path | None]) -> None:
    """Refuse a certificate that cannot be written, or whose weights would replace a file read."""
    check_output(output)
    if output is None:
        return
    if output.suffix == ".safetensors":
        raise ValueError(f"`output` must be the JSON file; the weights go beside it; got {output}.")
    beside = output.with_suffix(".safetensors")
    if any(path is not None and path.exists() and _same(path, beside) for path in read):
        raise ValueError(f"`output` must have another name; {beside} would be written over.")


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _bound(certificate: Certificate) -> str:
    bound = certificate.bound
    return (
        f"Lipschitz bound in l2: {rounded_up(bound)}\n"
        f"Arithmetic {certificate.arithmetic}: {certificate.meaning}.\n\n{bound}"
    )
