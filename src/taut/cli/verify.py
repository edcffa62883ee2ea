"""`taut verify`."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from taut._display import rounded_up
from taut.certification import verifier
from taut.certification import verify as prove_again
from taut.data import load_test, read_arrays, read_inputs
from taut.training import OpenedRun

_Path = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
_Certificate = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CERTIFICATE")]
_Weights = Annotated[
    Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS", help_behavior_hint="")
]


def verify(certificate: _Certificate, weights: _Weights = None, *, points: _Path = None) -> None:
    """Verify a certificate: prove its bound and radii again.

    Runs and records the graph in the certificate, proves the bound of every operation again from
    the weights, and composes these bounds. With the images, a second verifier, which shares no code
    with taut, proves the bound independently, computes the predictions in float64, and proves the
    radius of each image. Exit code 1 if any claim does not hold.

    Example: taut verify runs/demo/certificate.json

    Example: taut verify certificate.json certificate.safetensors --points points.npz

    Args:
        certificate: the JSON file that `taut certify` wrote.
        weights: the safetensors file with the certified weights; by default the one beside it.
        points: the certified images: the file that `taut certify --data` read, or the run folder;
            or an npz file with the tensors themselves, in their precision, as the array `images`.
    """
    weights = certificate.with_suffix(".safetensors") if weights is None else weights
    for path in (certificate, weights):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
    if points is not None and not points.exists():
        raise FileNotFoundError(f"There is no file {points}.")
    try:
        found = prove_again(certificate, weights)
        alone = None if points is None else _verified_alone(certificate, weights, points)
    except ValueError as error:
        named = str(error) if str(certificate) in str(error) else f"{certificate}: {error}"
        raise RuntimeError(f"refused: {named}") from error
    shape = "x".join(map(str, found.input_shape))
    print(f"Proven: Lipschitz bound {rounded_up(found.bound)} in l2 for inputs of {shape}.")
    print(_MEANING[found.arithmetic])
    if alone is None:
        print("Radii and accuracies were not proven: give the images with --points.")
    else:
        print(f"By the stand-alone verifier: {alone}.")


def _verified_alone(certificate: Path, weights: Path, points: Path) -> str:
    """What the stand-alone verifier says, of images as `taut certify` reads them."""
    file = json.loads(certificate.read_text(encoding="utf-8"))
    if "images" not in file or _as_certified(points, file):
        return verifier.verify(certificate, weights, points)
    images = _images(points, tuple(file["input"]["shape"]), _DTYPES[file["images"]["dtype"]])
    with TemporaryDirectory() as folder:
        written = Path(folder, "points.npz")
        np.savez(written, images=images)
        try:
            return verifier.verify(certificate, weights, written)
        except verifier.Refused as error:
            raise ValueError(str(error).replace(str(written), str(points))) from None


def _as_certified(points: Path, file: Mapping[str, Any]) -> bool:
    """Whether a file holds the tensors themselves, in the certified precision and shape."""
    if points.suffix != ".npz":
        return False
    array = read_arrays(points, ("images",)).get("images", np.zeros(0))
    shape = (len(file["images"]["sha256"]), *file["input"]["shape"])
    return array.shape == shape and array.dtype.str == verifier.FLOATS[file["images"]["dtype"]]


def _images(points: Path, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
    """The test images of a run or a file, in a precision; numpy has bfloat16 as bits alone."""
    if points.is_dir():
        test = OpenedRun.open(points, device="cpu")
        images, _ = test.head(len(test.test))
    else:
        try:
            images, _ = load_test("npz", points, shape=shape)
        except ValueError:  # without labels, or no images: what `taut predict` takes
            images = torch.cat([*read_inputs([points], shape, dtype).batches])
    images = images.to(dtype).contiguous()
    return (images.view(torch.int16) if dtype == torch.bfloat16 else images).numpy()


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
_MEANING = {
    "float64": "It holds for the float64 run of the weights, in any order of summation.",
    "float32": "It holds for the float32 run of the weights, in any order of summation.",
    "real": "It holds for real numbers, not for a program that rounds.",
}
