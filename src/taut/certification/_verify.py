"""Check a certificate file against weights or a model."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from taut.certification._arithmetic import ARITHMETICS, Arithmetic, check_arithmetic
from taut.certification._certificate import (
    FORMAT,
    SPACE,
    VERSION,
    describe,
    device_of,
    program_of,
    weights_sha256,
)
from taut.certification._changes import compose_moved, moved
from taut.certification._curvature import curved_head
from taut.certification._verify_images import Limit, check_answers, check_images, floats, numbers
from taut.files import load_tensors
from taut.program import (
    Layer,
    Program,
    UnprovenError,
    affine_terms,
    canonical,
    checked_program,
    compose,
    fold_of,
    layers_of,
    pairs_of,
    row,
)

__all__ = ["Verified", "verify"]

_OLD = {
    1: "it says nothing of the precision of the images and of the programs of functions, and left "
    "a slack in its proofs; certify the model again",
}
_MODEL = {
    "arithmetic": str, "bound": float, "error": (list, type(None)), "format": str, "graph": dict,
    "graph_sha256": str, "input": dict, "layers": list, "norm_limit": (float, type(None)),
    "pairwise": (list, type(None)), "software": dict, "version": int, "weights": dict,
    "weights_sha256": str,
}  # fmt: skip
_IMAGES = {
    "certified_accuracy": dict, "clean_accuracy": float, "images": dict, "labels": list,
    "margin": list, "predictions": list, "radius": list,
}  # fmt: skip
_ANSWERS = {"classes": list, "images": dict, "margin": list, "radii": list}


@final
@dataclass(frozen=True)
class Verified:
    """The verified claims of a certificate.

    Attributes:
        arithmetic: "float64", "float32" or "real".
        input_shape: of one input.
        bound: Lipschitz constant of the logits.

    Example:
        >>> Verified("float64", (1, 28, 28), 1.0).bound
        1.0
    """

    arithmetic: Arithmetic
    input_shape: tuple[int, ...]
    bound: float


def verify(
    certificate: str | os.PathLike[str],
    weights: str | os.PathLike[str] | Mapping[str, Tensor] | nn.Module,
) -> Verified:
    """Verify a certificate: prove its claims again from the weights.

    Hashes of the weights and of the graph are compared, the graph is run and recorded, the bound of
    each operation is proven anew, and the rows are composed anew. Radii and accuracies must fit one
    another and the margins beside them; the images themselves are not here. `verifier.py` beside
    this file checks them too, and needs nothing of taut.

    Args:
        certificate: path of the JSON file.
        weights: the exported weights: path of the safetensors file, or tensors by name; or the
            model, which is needed where it has modules of types that were registered elsewhere.

    Returns:
        What is proven.

    Raises:
        UnprovenError: if a bound in the file is smaller than the proven bound, or a layer is
            unknown.
        ValueError: if the file is damaged, or of other weights or another graph.
        FileNotFoundError: if there is no such file.

    Example:
        >>> import tempfile
        >>> from taut.certification import prove
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, weights = prove(model, (2,)).save(Path(folder, "certificate.json"))
        ...     verify(path, weights).arithmetic, verify(path, model).input_shape
        ('float64', (2,))
    """
    file = _read(Path(certificate))
    try:
        return _verify(file, weights)
    except UnprovenError:  # a RuntimeError, too
        raise
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{certificate} is damaged: {type(error).__name__} {words}.") from error


def _verify(file: dict[str, Any], weights: Any) -> Verified:
    arithmetic, shape = _check_format(file)
    program = _program(file, weights, shape)
    if canonical(program.content()) != canonical(file["graph"]):
        raise ValueError("The graph of the model is not the certified one.")
    if program.sha256() != file["graph_sha256"]:
        raise ValueError("The graph does not match its hash.")
    if canonical(file["weights"]) != canonical(describe(program.tensors)):
        raise ValueError("The description of the weights does not match the weights.")
    device = device_of(weights) if isinstance(weights, nn.Module) else torch.device("cpu")
    check_arithmetic(arithmetic, program.tensors, device)
    proven = layers_of(program, real=arithmetic == "real")
    layers = _recorded(file, proven)
    folds = _folds(file.get("folds", []), program, layers)
    constants = _compose(file, layers, program, arithmetic, folds)
    stretch = _check_changes(file["changes"], layers, program) if "changes" in file else 1.0
    by_curvature = arithmetic == "real" and "changes" not in file
    curved = _curved_limit(program, constants) if by_curvature else None
    if "radius" in file:
        check_images(file, program.shapes[program.output], curved)
    if "radii" in file:
        check_answers(file, program.shapes[program.output], stretch, curved)
    return Verified(arithmetic, shape, file["bound"])


# What the file is.


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        text = path.read_text(encoding="utf-8")
        file = json.loads(text)
        same = canonical(file) == text.strip()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The certificate {path} is damaged: {error}.") from error
    if not same or not isinstance(file, dict):
        raise ValueError(f"{path} is not canonical JSON, as certificates are.")
    return file


def _check_format(file: dict[str, Any]) -> tuple[Arithmetic, tuple[int, ...]]:
    if file.get("format") != FORMAT or type(file.get("version")) is not int:
        raise ValueError(f"The file is not a certificate of version {VERSION}.")
    if file["version"] in _OLD:
        raise ValueError(
            f"The certificate is of version {file['version']}: {_OLD[file['version']]}."
        )
    kinds = _MODEL | (_IMAGES if "radius" in file else _ANSWERS if "radii" in file else {})
    kinds |= {"changes": dict} if "changes" in file and "radii" in file else {}
    kinds |= {"folds": list} if "folds" in file else {}
    if file["version"] != VERSION or file.keys() != kinds.keys():
        raise ValueError(
            f"The keys of the file are not those of a certificate of version {VERSION}."
        )
    wrong = [key for key, kind in kinds.items() if not _is(file[key], kind)]
    if wrong or file["input"].keys() != {"shape", "space"} or not _texts(file["software"]):
        raise ValueError(
            f"`{wrong[0] if wrong else 'input'}` is not a valid entry of a certificate."
        )
    if file["input"]["space"] != SPACE or file["arithmetic"] not in ARITHMETICS:
        raise ValueError(f"The file must be about the {SPACE}, in a known arithmetic.")
    return file["arithmetic"], tuple(file["input"]["shape"])


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _texts(values: dict[str, Any]) -> bool:
    return all(isinstance(value, str) for value in values.values())


# What it is about.


def _program(file: dict[str, Any], weights: Any, shape: tuple[int, ...]) -> Program:
    """The program of the model, or that of the graph in the file with these tensors."""
    if isinstance(weights, nn.Module):
        program = program_of(weights, shape)
        _check_weights(program.tensors, file)
        return program
    tensors = _tensors(weights, file)
    _check_weights(tensors, file)
    return checked_program(file["graph"], shape, tensors)


def _check_weights(tensors: Mapping[str, Tensor], file: dict[str, Any]) -> None:
    if weights_sha256(tensors) != file["weights_sha256"]:
        raise ValueError("The weights are not the certified ones: their hash differs.")


def _tensors(weights: Any, file: dict[str, Any]) -> Mapping[str, Tensor]:
    if not isinstance(weights, Mapping):
        tensors, text = load_tensors(Path(weights))
        if (text.get("graph_sha256") or file["graph_sha256"]) != file["graph_sha256"]:
            raise ValueError("The weights belong to another graph than the certified one.")
        return tensors
    # A state dict may hold counters too, which no result depends on.
    return {n: t for n, t in weights.items() if n in file["weights"] or t.is_floating_point()}


# What it claims.


def _recorded(file: dict[str, Any], proven: list[Layer]) -> list[Layer]:
    """The rows of the file, each at least what was proven just now."""
    if len(file["layers"]) != len(proven):
        raise ValueError("The rows do not match the graph.")
    real = file["arithmetic"] == "real"
    return [
        _row(said, layer, real=real) for said, layer in zip(file["layers"], proven, strict=True)
    ]


def _row(said: dict[str, Any], layer: Layer, *, real: bool) -> Layer:
    own = row(layer)
    if real:
        own = {k: own[k] for k in ("name", "type", "bound", "proof", "inputs", "combine", "gains")}
    same = [key for key in ("name", "type", "inputs", "combine", "entries") if key in own]
    kept = said.keys() == own.keys() and isinstance(said["proof"], str)
    if not kept or canonical([said[k] for k in same]) != canonical([own[k] for k in same]):
        raise ValueError(f"The row of `{layer.name}` does not match the graph.")
    gains = tuple(floats(said["gains"], "gains"))
    enough = len(gains) == len(layer.gains) and type(said["bound"]) is float
    enough = enough and said["bound"] == max(gains, default=0.0)
    if not enough or not all(g >= p for g, p in zip(gains, layer.gains, strict=True)):
        raise UnprovenError(f"The bound of `{layer.name}` is smaller than the proven bound.")
    if real:
        return replace(layer, gains=gains)
    absolutes = tuple(floats([*said["absolutes"], said["constant"]], "absolutes and constant"))
    least = (*layer.absolutes, layer.constant)
    if (
        type(said["count"]) is not int
        or said["count"] < layer.count
        or len(absolutes) != len(least)
    ):
        raise UnprovenError(f"The roundings of `{layer.name}` are larger than the file states.")
    if not all(s >= p for s, p in zip(absolutes, least, strict=True)):
        raise UnprovenError(f"The rounding of `{layer.name}` is larger than the file states.")
    return replace(
        layer, gains=gains, absolutes=absolutes[:-1], constant=absolutes[-1], count=said["count"]
    )


def _folds(said: list[Any], program: Program, layers: list[Layer]) -> dict[str, tuple[str, float]]:
    """The folds of the file, each at least what was proven just now."""
    terms = affine_terms(program) if said else {}
    rows, folds = {layer.name: layer for layer in layers}, {}
    for fold in said:
        own = fold_of(program, fold["name"], terms, rows, folds)
        if own is None or fold["name"] in folds or fold.keys() != own.content().keys():
            raise ValueError(f"`{fold['name']}` is not a fold of the graph, or occurs twice.")
        gain, absolute = floats([fold["gain"], fold["absolute"]], "gains of folds")
        if fold["input"] != own.input or not isinstance(fold["proof"], str):
            raise ValueError(f"The fold of `{own.name}` does not match the graph.")
        if not (gain >= own.gain and absolute >= own.absolute):
            raise UnprovenError(
                f"The bound of the fold of `{own.name}` is smaller than the proven bound."
            )
        folds[own.name] = own.input, gain
    return folds


def _compose(
    file: dict[str, Any],
    layers: list[Layer],
    program: Program,
    arithmetic: str,
    folds: Mapping[str, tuple[str, float]],
) -> Mapping[str, float]:
    """Check the bounds composed from the rows; return the Lipschitz constants of all values."""
    composed = compose(layers, program.source, program.output, arithmetic, folds)
    if not file["bound"] >= composed.lipschitz:
        raise UnprovenError("The Lipschitz bound is smaller than that composed from the rows.")
    if file["pairwise"] is not None:
        _check_pairs(file["pairwise"], pairs_of(program, composed.constants))
    if arithmetic == "real":
        if file["error"] is not None or file["norm_limit"] is not None:
            raise ValueError("A certificate in real numbers has no rounding error.")
        return composed.constants
    errors = zip(floats(file["error"], "error"), composed.error, strict=True)
    if not all(said >= proven for said, proven in errors):
        raise UnprovenError("The rounding error is smaller than that composed from the rows.")
    if not 0 < file["norm_limit"] <= composed.norm_limit:
        raise UnprovenError("The norm limit is larger than that composed from the rows.")
    return composed.constants


def _curved_limit(program: Program, constants: Mapping[str, float]) -> Limit | None:
    """What no radius by curvature exceeds, from margins and labels; None if there are none.

    Slopes at the images, which are not here, may make radii less.
    """
    head, pairs = curved_head(program, constants), pairs_of(program, constants)
    if head is None or pairs is None:
        return None
    return partial(head.largest, slopes=pairs)


def _check_changes(said: dict[str, Any], layers: list[Layer], program: Program) -> float:
    """Refuse bounds of changes below what is proven; the largest of their weights."""
    if said.keys() != {"bound", "folds", "pairwise", "weights"} or type(said["bound"]) is not float:
        raise ValueError("`changes` is not a valid entry of a certificate.")
    weights = numbers(said["weights"], "weights of changes")
    shape = program.input_shape
    fits = weights.dim() == len(shape) and all(
        m in (1, n) for m, n in zip(weights.shape, shape, strict=True)
    )
    if not (fits and weights.isfinite().all() and (weights > 0).all()):
        raise ValueError("The weights of changes must be positive, of the shape of an input.")
    behind = moved(program, weights)
    composed = compose_moved(behind, layers, _folds(said["folds"], behind, layers))
    if not said["bound"] >= composed.lipschitz:
        raise UnprovenError("The bound of changes is smaller than that composed from the rows.")
    if said["pairwise"] is not None:
        _check_pairs(said["pairwise"], pairs_of(behind, composed.constants))
    return weights.max().item()


def _check_pairs(pairs: list[Any], proven: Tensor | None) -> None:
    if proven is None:
        raise ValueError("Only graphs that end in a matrix have constants of pairs.")
    rows = [floats(values, "constants of pairs") for values in pairs]
    if {len(values) for values in rows} | {len(rows)} != {len(proven)}:
        raise ValueError("There must be one constant for each pair of classes.")
    if not bool((torch.tensor(rows, dtype=torch.float64, device="cpu") >= proven).all()):
        raise UnprovenError("A constant of two classes is smaller than the proven bound.")
