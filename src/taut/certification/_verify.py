"""Check a certificate file against weights or a model."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from taut.certification._arithmetic import ARITHMETICS, Arithmetic, check_arithmetic
from taut.certification._certificate import (
    FORMAT,
    SPACE,
    VERSION,
    canonical,
    describe,
    graph_sha256,
    head_of,
    prove,
    weights_sha256,
)
from taut.certification._layers import Layer, compose
from taut.certification._radius import above
from taut.certification._replay import replay
from taut.files import load_tensors
from taut.lipschitz import UnprovenError, pairwise_constants

__all__ = ["Verified", "verify"]

_SLACK = 1 + 2.0**-41
"""Half of what `widened` added: another machine's rounding is far below it."""


@final
@dataclass(frozen=True)
class Verified:
    """What a certificate proves of some weights.

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
    """Prove again what a certificate says of a model, whoever wrote it.

    Hashes of the weights and of the graph are compared, the bound of each layer is proven anew, and
    what they come to is composed anew. The radii of images are not looked at: the images are not
    here. `verifier.py` beside this file checks them too, and needs nothing of taut.

    Args:
        certificate: path of the JSON file.
        weights: the exported weights: path of the safetensors file, or tensors by name, for models
            that are a sequence of known layers; for any other model, the model.

    Returns:
        What is proven.

    Raises:
        UnprovenError: if a bound in the file is below what can be proven, or a layer is unknown.
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
    except (LookupError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{certificate} is damaged: {error!r}.") from error


def _verify(file: dict[str, Any], weights: Any) -> Verified:
    arithmetic, shape = file["arithmetic"], tuple(file["input"]["shape"])
    if (file["format"], file["version"]) != (FORMAT, VERSION) or arithmetic not in ARITHMETICS:
        raise ValueError(f"The file is no certificate of version {VERSION}.")
    if file["input"]["space"] != SPACE:
        raise ValueError(f"The file must be about the {SPACE}.")
    if graph_sha256(file["graph"]) != file["graph_sha256"]:
        raise ValueError("The graph is not the one that was certified: its hash differs.")
    if isinstance(weights, nn.Module):
        program = prove(weights, shape, arithmetic=arithmetic).program
        tensors, layers = program.tensors, list(program.layers)
        graph = {"input": program.source, "nodes": list(program.nodes), "output": program.output}
        _same_graph(graph_sha256(graph), file)
    else:
        tensors = _tensors(weights, file)
        layers = None
    if weights_sha256(dict(sorted(tensors.items()))) != file["weights_sha256"]:
        raise ValueError("The weights are not the ones that were certified: their hash differs.")
    if layers is None:
        check_arithmetic(arithmetic, tensors, torch.device("cpu"))
        layers = replay(file["graph"], shape, tensors, real=arithmetic == "real")
    recorded = _recorded(file, layers)
    _compose(file, recorded, tensors, arithmetic)
    if file["weights"] != describe(tensors):
        raise ValueError("The weights are described as others than they are.")
    _check_shares(file)
    return Verified(arithmetic, shape, file["bound"])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    text = path.read_text()
    try:
        file = json.loads(text)
        same = canonical(file) == text.strip()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not same or not isinstance(file, dict):
        raise ValueError(f"{path} is not the canonical JSON that certificates are.")
    return file


def _same_graph(found: str, file: dict[str, Any]) -> None:
    if found != file["graph_sha256"]:
        raise ValueError("The model computes another graph than the one that was certified.")


def _tensors(weights: Any, file: dict[str, Any]) -> Mapping[str, Tensor]:
    if not isinstance(weights, Mapping):
        tensors, text = load_tensors(Path(weights))
        _same_graph(text.get("graph_sha256") or file["graph_sha256"], file)
        return tensors
    # A state dict may hold counters too, which no result depends on.
    return {n: t for n, t in weights.items() if n in file["weights"] or t.is_floating_point()}


def _check_shares(file: dict[str, Any]) -> None:
    """Refuse accuracies that are not those of the radii, labels and predictions beside them."""
    if "radius" not in file:
        return
    radius = torch.tensor(file["radius"], dtype=torch.float64)
    right = [a == b for a, b in zip(file["predictions"], file["labels"], strict=True)]
    shares = {"clean_accuracy": (file["clean_accuracy"], sum(right))}
    for eps, said in file["certified_accuracy"].items():
        shares[f"certified_accuracy at {eps}"] = said, int(above(radius, eps).sum())
    if len(right) != len(radius) or any(
        r > 0 and not ok for r, ok in zip(radius, right, strict=False)
    ):
        raise ValueError("A radius belongs to no right answer.")
    for name, (said, count) in shares.items():
        if said > count / len(right):
            raise ValueError(f"The {name} is above what the images beside it come to.")


def _recorded(file: dict[str, Any], proven: list[Layer]) -> list[Layer]:
    """The rows of the file, each at least what was proven just now."""
    if len(file["layers"]) != len(proven):
        raise ValueError("The rows are not those of the graph.")
    rows = []
    for row, layer in zip(file["layers"], proven, strict=True):
        found = Layer(
            name=row["name"],
            type=row["type"],
            inputs=tuple(row["inputs"]),
            gains=tuple(map(float, row["gains"])),
            proof=row["proof"],
            combine=row["combine"],
            absolutes=tuple(map(float, row.get("absolutes", layer.absolutes))),
            count=row.get("count", layer.count),
            constant=float(row.get("constant", layer.constant)),
            entries=tuple(row.get("entries", layer.entries)),
        )
        _compare(found, layer)
        if row["bound"] != found.bound:
            raise ValueError(f"The row of `{layer.name}` has another bound than its gains.")
        rows.append(found)
    return rows


def _compare(found: Layer, proven: Layer) -> None:
    same = (found.name, found.type, found.inputs, found.combine, found.entries)
    if same != (proven.name, proven.type, proven.inputs, proven.combine, proven.entries):
        raise ValueError(f"The row of `{proven.name}` is not that of the graph.")
    pairs = [
        *zip(found.gains, proven.gains, strict=True),
        *zip(found.absolutes, proven.absolutes, strict=True),
        (found.constant, proven.constant),
        (found.count, proven.count),
    ]
    # Not below, up to the room that `widened` left; NaN is refused as well.
    if not all(math.isfinite(said) and said * _SLACK >= bound for said, bound in pairs):
        raise UnprovenError(f"The row of `{proven.name}` says less than can be proven.")


def _compose(
    file: dict[str, Any], layers: list[Layer], tensors: Mapping[str, Tensor], arithmetic: str
) -> None:
    graph = file["graph"]
    composed = compose(layers, graph["input"], graph["output"], arithmetic)
    if not file["bound"] >= composed.lipschitz:
        raise UnprovenError("The Lipschitz bound is below what the rows come to.")
    if file["pairwise"] is not None:
        head = head_of(graph["nodes"], graph["output"])
        proven = pairwise_constants(tensors[head["weight"]], composed.features)
        said = torch.tensor(file["pairwise"], dtype=torch.float64)
        if said.shape != proven.shape or not bool((said >= proven).all()):
            raise UnprovenError("A constant of two classes is below what can be proven.")
    if arithmetic == "real":
        return
    errors = zip(file["error"], composed.error, strict=True)
    if not all(said >= proven for said, proven in errors):
        raise UnprovenError("The rounding error is below what the rows come to.")
    if not 0 < file["norm_limit"] <= composed.norm_limit:
        raise UnprovenError("The norm limit is above what the rows come to.")
