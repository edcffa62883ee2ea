"""`taut verify`."""

from pathlib import Path
from typing import Annotated

import tyro

from taut.certification import verifier
from taut.certification import verify as prove_again

_Path = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
_Certificate = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CERTIFICATE")]
_Weights = Annotated[
    Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS", help_behavior_hint="")
]


def verify(certificate: _Certificate, weights: _Weights = None, *, points: _Path = None) -> None:
    """Prove again what a certificate says, whoever wrote it.

    The graph in the certificate is run and recorded, the bound of every operation is proven anew
    from the weights, and what they come to is composed anew. With the images a second verifier,
    which shares no code with taut, proves the bound by its own means, computes the answers itself
    in float64, and proves the radius of each image. Exit code 1 if anything does not hold.

    Example: taut verify runs/demo/certificate.json

    Example: taut verify certificate.json certificate.safetensors --points points.npz

    Args:
        certificate: the JSON file that `taut certify` wrote.
        weights: the safetensors file that it is about; the one beside it if not given.
        points: npz file with the certified images, in their precision, as the array `images`.
    """
    weights = certificate.with_suffix(".safetensors") if weights is None else weights
    for path in (certificate, weights, *([] if points is None else [points])):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
    try:
        found = prove_again(certificate, weights)
        alone = None if points is None else verifier.verify(certificate, weights, points)
    except ValueError as error:
        named = str(error) if str(certificate) in str(error) else f"{certificate}: {error}"
        raise RuntimeError(f"refused: {named}") from error
    shape = "x".join(map(str, found.input_shape))
    print(f"Proven: Lipschitz bound {found.bound:.9g} in l2 for inputs of {shape}.")
    print(_MEANING[found.arithmetic])
    if alone is None:
        print("Radii and accuracies were not proven: give the images with --points.")
    else:
        print(f"By the stand-alone verifier: {alone}.")


_MEANING = {
    "float64": "It holds for the float64 run of the weights, in any order of summation.",
    "float32": "It holds for the float32 run of the weights, in any order of summation.",
    "real": "It holds for real numbers, not for a program that rounds.",
}
