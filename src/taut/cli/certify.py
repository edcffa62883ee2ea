"""`taut certify`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from taut.certification import (
    Arithmetic,
    Certificate,
    Certification,
    as_rational,
    prove,
    verify,
)
from taut.certification import certify as certify_model
from taut.cli.model_file import load_model, parse_shape
from taut.cli.shared import Device, Eps, Opened, check_eps, open_run, percent, show_table
from taut.data import load
from taut.deploy import PlainModel
from taut.deploy import load as load_exported
from taut.training import choose_device

_Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
_Path = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
_Run = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class ModelFile:
    """A model of plain torch modules, instead of a run.

    Args:
        model: FILE.py:FUNCTION, which makes the model; the file is run.
        weights: safetensors file with its state.
        input_shape: of one input, such as 3,32,32.
        data: npz file with test images to certify; without it, only the bound is printed.
        output: where to write the certificate; its weights go beside it.
    """

    model: _Text = None
    weights: _Path = None
    input_shape: _Text = None
    data: _Path = None
    output: _Path = None


def certify(
    run: _Run = None,
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = ModelFile(),
    arithmetic: Arithmetic = "float64",
    eps: Eps = (),
    device: Device = "auto",
) -> None:
    """Print how many test images keep their correct answer within l2 distances.

    Writes certificate.json and certificate.safetensors, the weights it speaks of, into the run
    folder. Of a model in a file it prints the proven Lipschitz constant, layer by layer. Of an
    exported file it proves all anew, from that file alone, and the certificate beside it too.

    Example: taut certify runs/demo --eps 0.1 36/255

    Example: taut certify --model net.py:make --weights net.safetensors --input-shape 3,32,32

    Example: taut certify runs/demo/onnx/model.onnx

    Args:
        run: the run folder, or a file that `taut export` wrote.
        plain: a model in a file.
        arithmetic: what the radii hold for: the exported weights run in float64, the model in
            float32, or real numbers only.
        eps: l2 radii, pixels in [0, 1]; those of the recipe if not given.
        device: auto takes a GPU if there is one.
    """
    if (run is None) == (plain.model is None):
        raise ValueError(
            "Give a run folder, or a model with --model FILE.py:FUNCTION, or an exported file."
        )
    if run is None or run.is_file():
        if run is not None and plain.weights is not None:
            raise ValueError("An exported file has its own weights; leave out --weights.")
        _certify_file(run, plain, arithmetic, eps, choose_device(device))
        return
    if plain != ModelFile():
        raise ValueError("A run folder has its own model and data; leave out the options of files.")
    opened = open_run(run, device)
    target, found = save_certificate(opened, eps, arithmetic)
    _show(opened.title(), found)
    print(f"\n{_bound(found.certificate)}\n\nWrote {target}")


def save_certificate(
    opened: Opened, eps: tuple[str, ...] = (), arithmetic: Arithmetic = "float64"
) -> tuple[Path, Certification]:
    """Certify the whole test set and write the certificate into the run folder."""
    radii = check_eps(eps, opened.run)
    found = opened.certify(radii, arithmetic)
    target, _ = found.save(opened.run.path / "certificate.json")
    return target, found


def _certify_file(
    exported: Path | None,
    plain: ModelFile,
    arithmetic: Arithmetic,
    eps: Sequence[str],
    device: torch.device,
) -> None:
    model, shape = _read_model(exported, plain)
    if exported is not None:
        _verify_beside(exported, model)
    model = model.to(device)
    if plain.data is None:
        if eps:
            raise ValueError("`--eps` needs `--data`, an npz file with test images.")
        found: Certificate | Certification = prove(model, shape, arithmetic=arithmetic)
        certificate = found
    else:
        test = load("npz", plain.data).test
        radii = tuple(sorted(eps or ("36/255", "72/255", "108/255"), key=as_rational))
        found = certify_model(
            model, test.float_images(), test.labels, radii, shape, arithmetic=arithmetic
        )
        certificate = found.certificate
        _show(f"{plain.data.name}, {len(test.labels):,} test images", found)
        print()
    print(_bound(certificate))
    if isinstance(model, PlainModel) and model.any_size:
        size = ",".join(map(str, shape))
        print(f"\nThe file takes other sizes, too: this holds for {size} alone (--input-shape).")
    if plain.output is not None:
        target, _ = found.save(plain.output)
        print(f"\nWrote {target}")


def _read_model(exported: Path | None, plain: ModelFile) -> tuple[nn.Module, tuple[int, ...]]:
    shape = None if plain.input_shape is None else parse_shape(plain.input_shape)
    if exported is not None:
        return load_exported(exported, shape)
    if plain.model is None or shape is None:
        raise ValueError("`--model` needs `--input-shape`, such as 3,32,32.")
    return load_model(plain.model, plain.weights), shape


def _verify_beside(exported: Path, model: nn.Module) -> None:
    """Prove again what the certificate beside an exported file says of it."""
    certificate = exported.with_name("certificate.json")
    if certificate.is_file():
        found = verify(certificate, model)
        print(f"{certificate} holds for {exported.name}: bound {found.bound:.9g}.\n")


def _show(title: str, found: Certification) -> None:
    clean = percent(found.clean_accuracy)
    rows = [(str(text), clean, percent(share)) for text, share in found.certified_accuracy.items()]
    show_table(title, ("eps", "clean", "certified"), rows)


def _bound(certificate: Certificate) -> str:
    bound = certificate.bound
    return (
        f"Lipschitz bound in l2: {float(bound):.9g}\n"
        f"Arithmetic {certificate.arithmetic}: {certificate.meaning}.\n\n{bound}"
    )
