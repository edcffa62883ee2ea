"""Verify the models in zoo/ from their files alone, or add the model of a run.

Example: python -m experiments.zoo              # as `make zoo`
Example: python -m experiments.zoo --add runs/mnist-small-seed0 --name mnist-small

The SHA-256 of each file is compared with the manifest, and each certificate is proved again from
the weights, by taut and by the stand-alone verifier, which shares no code with it. The verifier
also proves the answers and radii of the first test images, which are in the zoo, too.
"""

import argparse
import hashlib
import tempfile
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import taut
from experiments._record import ROOT, Record, read, write_json
from experiments._runner import Experiment, option, tracked
from experiments._show import markdown
from experiments._training import shares
from taut._zoo import manifest
from taut.certification.verifier import verify as verify_alone
from taut.export import export, freeze, shrink_
from taut.training import Run
from taut.wasserstein import measure_critic

ZOO = ROOT / "zoo"
_MODEL, _CERTIFICATE, _POINTS = "model.safetensors", "certificate.json", "points.npz"
_MANIFEST, _CARD = "manifest.json", "card.md"
_SAMPLES = 50


def work(args: argparse.Namespace, record: Record) -> None:
    if args.add is not None:
        if args.name is None:
            raise ValueError("`--add` needs `--name`, the name of the model in the zoo.")
        added(args.add, args.name, record, args.zoo)
    known = read(args.zoo / _MANIFEST)
    if not known:
        raise FileNotFoundError(f"{args.zoo / _MANIFEST} must name the models; it names none.")
    for name in tracked(list(known), "models"):
        print(f"{name}: {verified(args.zoo / name, known[name])}", flush=True)


def added(path: Path, name: str, record: Record, zoo: Path) -> None:
    """Write the files of a finished run, and its entry in the manifest."""
    run, folder = Run.open(path), zoo / name
    if (path / "model.py").is_file():
        raise ValueError(f"{path}: the file of its net must not be model.py, as the zoo's is.")
    folder.mkdir(parents=True, exist_ok=True)
    shape, data = run.recipe.input_shape, run.dataset()
    frozen = freeze(run.model().eval(), shape)
    shrink_(frozen, shape)
    model = export(frozen, folder / _MODEL, shape).model
    images, labels = data.test.float_images(), data.test.labels
    certification = taut.certify(model, images, labels, run.recipe.eps)
    sample = taut.certify(model, images[:_SAMPLES], labels[:_SAMPLES], run.recipe.eps)
    with tempfile.TemporaryDirectory() as scratch:  # the weights beside it are those of the model
        certificate, _ = sample.save(Path(scratch, _CERTIFICATE))
        (folder / _CERTIFICATE).write_bytes(certificate.read_bytes())
    np.savez_compressed(folder / _POINTS, images=images[:_SAMPLES].numpy())
    for file in (path / "recipe.json", *path.glob("*.py")):  # the model's own file, if it has one
        (folder / file.name).write_bytes(file.read_bytes())
    said = {
        "about": f"The architecture {type(run.recipe.model).__name__} with layers of "
        f"{run.recipe.parametrization.__name__}, trained with the loss {run.recipe.loss.kind}",
        "data": data.label,
        "input_shape": list(shape),
        "classes": list(data.classes),
        "bound": float(certification.bound),
        **shares(certification),
        **distance(run, model, images, labels),
        "seed": run.recipe.seed,
        "epochs": run.recipe.epochs,
        "added": record.environment(),
    }
    (folder / _CARD).write_text(card(name, said))
    files = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    write_json(zoo / _MANIFEST, read(zoo / _MANIFEST) | {name: {**said, "files": files}})


def distance(run: Run, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """What a critic of two classes proves of the Wasserstein-1 distance of their test images."""
    if run.recipe.classes != 2 or not run.recipe.loss.compares_classes:
        return {}
    score = nn.Linear(2, 1, bias=False)
    score.weight.data.copy_(torch.tensor([[-1.0, 1.0]]) * 0.5**0.5)
    critic = measure_critic(nn.Sequential(model, score), run.recipe.input_shape)
    return {"distance": critic.lower(images[labels == 1], images[labels == 0])}


def card(name: str, said: dict[str, Any]) -> str:
    """What a user must know of a model."""
    measured = [f"- certified at {eps}: {value:.2f} %" for eps, value in said["certified"].items()]
    measured.append(f"- proved Lipschitz constant in l2: {_up(said['bound'], 9)}")
    if "distance" in said:
        measured.append(
            "- the score (z_1 - z_0)/√2 of its logits proves that the test images of the two "
            f"classes are at least {_down(said['distance'], 3)} apart in Wasserstein-1"
        )
    return "\n".join(
        [
            f"# {name}",
            "",
            f"{said['about']}.",
            "",
            f"- input: {' x '.join(map(str, said['input_shape']))}, pixels in [0, 1]",
            f"- classes: {', '.join(said['classes'])}",
            f"- data: {said['data']}",
            f"- clean: {said['clean']:.2f} %, of all test images",
            *measured,
            f"- training: {said['epochs']} epochs, seed {said['seed']}",
            "",
            "Certificates are about small changes in l2 of images like those of the test set. They "
            "say nothing",
            "about other images, other changes, or whether an answer is right.",
            "",
        ]
    )


def verified(folder: Path, said: dict[str, Any]) -> str:
    """What holds of a model of the zoo; raises where something does not."""
    try:
        printed, hashes = card(folder.name, said), dict(said["files"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RuntimeError(f"{folder.parent / _MANIFEST} is damaged at {folder.name}.") from error
    other = {file.name for file in folder.iterdir() if file.is_file()} ^ hashes.keys()
    if other:
        raise RuntimeError(f"{folder} and the manifest differ in {', '.join(sorted(other))}.")
    for file, wanted in hashes.items():
        if sha256(folder / file) != wanted:
            raise RuntimeError(f"{folder / file} is not the file that the manifest hashes.")
    if (folder / _CARD).read_text() != printed:
        raise RuntimeError(f"{folder / _CARD} does not say what the manifest says.")
    certificate, weights = folder / _CERTIFICATE, folder / _MODEL
    try:
        proved = taut.verify(certificate, weights)
        alone = verify_alone(certificate, weights, folder / _POINTS)
    except ValueError as error:  # it may speak of a row alone
        raise RuntimeError(f"{certificate} does not hold: {error}") from error
    if proved.bound > said["bound"]:
        raise RuntimeError(
            f"{folder.parent / _MANIFEST} claims the bound {said['bound']} for {folder.name}, but "
            f"{proved.bound} is proved."
        )
    return f"Lipschitz bound {_up(proved.bound, 9)} in l2. By the stand-alone verifier: {alone}."


def _up(value: float, digits: int) -> str:
    """In decimals, and no less: what is proved must still hold as it is printed."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def _down(value: float, digits: int) -> str:
    """In decimals, and no more."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def zoo_table() -> str:
    """The table of docs/zoo.md."""
    rows = []
    for name, said in manifest().items():
        certified = ", ".join(f"{value:.1f} at {eps}" for eps, value in said["certified"].items())
        bound = _up(said["bound"], 2)
        rows.append((f"`zoo:{name}`", said["data"], bound, f"{said['clean']:.1f}", certified))
    return markdown(("name", "data", "Lipschitz constant", "clean, %", "certified, %"), rows)


EXPERIMENT = Experiment(
    "zoo",
    __doc__,
    work,
    (
        option("--add", help="a finished run folder", type=Path),
        option("--name", help="the name of the model in the zoo, with --add"),
        option("--zoo", ZOO, "the folder of models", type=Path),
    ),
    threads=1,
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
