"""The certificate of a model: what is proven of its program, and the file that says so."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from taut._display import rounded_up
from taut.certification._arithmetic import (
    Arithmetic,
    as_arithmetic,
    check_arithmetic,
    conventional,
    norms_upper,
)
from taut.certification._curvature import CurvedHead, curved_head
from taut.certification._inputs import check_images
from taut.certification._radius import (
    certified_radius,
    class_bound,
    class_logits,
    executed_radius,
)
from taut.files import save_tensors, write_atomically
from taut.linalg.precision import exact_float32
from taut.parametrizations import cached
from taut.program import (
    Composed,
    Fold,
    Layer,
    LayerBound,
    LipschitzBound,
    Program,
    Progress,
    canonical,
    check_precision,
    composition_of,
    head_of,
    pairs_of,
    replay,
    row,
    trace,
)

__all__ = ["Certificate", "prove", "weights_sha256"]

FORMAT = "taut-certificate"
VERSION = 2
SPACE = "l2 ball around the tensor given to the model, in the units of that tensor"
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
MEANINGS: dict[Arithmetic, str] = {
    "float64": "holds for the float64 run of the exported weights",
    "float32": "holds for the model as it runs in float32",
    "real": "holds for real numbers, not for a program that rounds",
}
_PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


@final
@dataclass(frozen=True, eq=False)
class Certificate:
    """The certificate of a model, for all inputs of one shape; it owns copies of the weights.

    Attributes:
        arithmetic: what the certified program computes in; "real" says nothing of any program.
        program: the model written down, with its exported weights.
        layers: one row for each operation: its gains, its rounding, and why.
        bound: proven Lipschitz bound of the logits in real arithmetic; `print` it.
        composed: Lipschitz constant, rounding error and overflow limit.
        folds: convolutions and matrices with the factors of channels around them, as one.
        curved: in real numbers, the hidden layer before the last, if its activation is smooth.

    Example:
        >>> certificate = prove(nn.Linear(2, 2), (2,))
        >>> certificate.arithmetic, 0 < certificate.composed.error[0] < 1e-14
        ('float64', True)
    """

    arithmetic: Arithmetic
    program: Program
    layers: tuple[Layer, ...]
    bound: LipschitzBound
    composed: Composed
    folds: tuple[Fold, ...] = ()
    curved: CurvedHead | None = None

    def __repr__(self) -> str:
        return f"Certificate(arithmetic={self.arithmetic!r}, bound={rounded_up(self.bound)})"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.program.input_shape

    @property
    def meaning(self) -> str:
        """The meaning of the arithmetic in words: what the radii hold for."""
        return MEANINGS[self.arithmetic]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one input."""
        return self.program.shapes[self.program.output]

    @property
    def classes(self) -> int:
        """Number of classes; a model with one output has two."""
        return 2 if self.output_shape[:1] in ((), (1,)) else self.output_shape[0]

    @property
    def class_bound(self) -> LipschitzBound:
        """The Lipschitz bound of the logits; a single output f has the logits (0, f)."""
        return class_bound(self.bound, self.output_shape)

    def check_inputs(self, inputs: Tensor) -> None:
        """Refuse what is no batch of finite inputs in the precision of the model.

        Raises:
            ValueError: if it is none.
        """
        tensors = self.program.tensors.values()
        like = next((t for t in tensors if t.is_floating_point()), inputs)
        check_images(inputs, self.input_shape, like, self.arithmetic)

    def outputs(self, inputs: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The outputs for a batch, computed by the certified program with its own weights."""
        like = next(iter(self.program.tensors.values()), inputs)
        precision = _PRECISIONS.get(self.arithmetic, inputs.dtype)
        device = torch.device("cpu") if like.device.type == "mps" else like.device
        # Radii in real arithmetic say nothing of any rounding.
        sums = nullcontext() if self.arithmetic == "real" else conventional()
        with torch.no_grad(), exact_float32(device), sums:
            return replay(self.program, inputs.to(device, precision, copy=True))

    def logits(self, images: Float[Tensor, "b ..."]) -> Float[Tensor, "b k ..."]:
        """The logits of a batch, computed by the certified program with its own weights.

        A model with one output f has the logits (0, f): class 1 where f > 0, and class 0 if not.
        """
        return class_logits(self.outputs(images))

    def radius(
        self,
        logits: Float[Tensor, "b k"],
        labels: Int[Tensor, " b"],
        images: Float[Tensor, "b ..."],
    ) -> Float[Tensor, " b"]:
        """Certified radii of these images, from the logits that the certified program computed."""
        if self.arithmetic == "real":
            radius = certified_radius(logits, labels, self.class_bound)
            return torch.maximum(radius, self.curved_radii(logits, labels, images).amin(1))
        norms = norms_upper(images.to("cpu"))
        return executed_radius(logits, labels, norms, self.class_bound, self.composed)

    def curved_radii(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Radii to each class from the curvature of the last layers; 0 if it gives none."""
        pairs = self.bound.pairwise
        if self.curved is None or pairs is None:
            return torch.zeros_like(logits, dtype=torch.float64)
        values: dict[str, Tensor] = {}
        with torch.no_grad(), exact_float32(images.device):
            replay(self.program, images, keep=values)
        hidden = values[self.curved.hidden].cpu()
        radii = self.curved.radii(logits.cpu(), hidden, labels.cpu(), pairs).to(logits.device)
        return radii.scatter(1, labels[:, None], math.inf)

    def content(self) -> dict[str, Any]:
        """The content of the file about the model, as plain values."""
        program, real = self.program, self.arithmetic == "real"
        rows = [row(layer) for layer in self.layers]
        exact = ("name", "type", "bound", "proof", "inputs", "combine", "gains")
        pairwise = self.bound.pairwise
        folds = {"folds": [fold.content() for fold in self.folds]} if self.folds else {}
        return folds | {
            "format": FORMAT,
            "version": VERSION,
            "arithmetic": self.arithmetic,
            "input": {"shape": list(self.input_shape), "space": SPACE},
            "graph": program.content(),
            "graph_sha256": program.sha256(),
            "weights": describe(program.tensors),
            "weights_sha256": weights_sha256(program.tensors),
            "layers": [{k: r[k] for k in exact} for r in rows] if real else rows,
            "bound": self.bound.value,
            "pairwise": None if pairwise is None else pairwise.tolist(),
            "error": None if real else list(self.composed.error),
            "norm_limit": None if real else self.composed.norm_limit,
            "software": {"taut": metadata.version("taut"), "torch": torch.__version__},
        }

    def to_json(self) -> str:
        """The certificate as canonical JSON: equal certificates give equal text."""
        return canonical(self.content())

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write the certificate, and the exported weights beside it as safetensors.

        Args:
            path: of the JSON file; its folder exists.

        Returns:
            The two files.
        """
        return save(self, Path(path), self.to_json())


def prove(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    arithmetic: str = "float64",
    progress: Progress | None = None,
) -> Certificate:
    """Prove the certificate of a model, without images.

    Args:
        model: made of modules and functions with rules; in eval mode where that matters.
        input_shape: of one input, without the batch.
        arithmetic: "float64", "float32" or "real"; see `taut.certify`.
        progress: called with each layer before it is bounded, and the share that is done.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if anything has no proof, or runs in
            a way that the proof does not cover.
        ValueError: if an argument is wrong.

    Example:
        >>> print(prove(nn.Linear(1, 2, bias=False), (1,)).to_json()[:35])
        {"arithmetic":"float64","bound":...
    """
    arithmetic = as_arithmetic(arithmetic)
    program = program_of(model, input_shape)
    check_arithmetic(arithmetic, program.tensors, device_of(model))
    proven = composition_of(program, arithmetic, progress)
    layers, folds, composed = proven.layers, proven.folds, proven.composed
    pairs = pairwise_of(program, composed.constants)
    used = tuple(dict.fromkeys(fold.by for fold in folds))
    bound = LipschitzBound(composed.lipschitz, tuple(rows_of_bound(layers, folds)), pairs, used)
    curved = curved_head(program, composed.constants) if arithmetic == "real" else None
    return Certificate(arithmetic, program, layers, bound, composed, folds, curved)


def rows_of_bound(layers: Iterable[Layer], folds: Iterable[Fold]) -> Iterator[LayerBound]:
    """What the table of the bound shows: each layer, and behind it what it is one map with."""
    by_name = {fold.name: fold for fold in folds}
    for layer in layers:
        yield LayerBound(layer.name, layer.type, layer.bound, layer.proof)
        if layer.name in by_name:
            fold = by_name[layer.name]
            words = f"all from `{fold.input}` on as one: {fold.proof}"
            yield LayerBound(layer.name, "", fold.gain, words)


def device_of(model: nn.Module) -> torch.device:
    """Where a model runs."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def program_of(model: nn.Module, input_shape: tuple[int, ...]) -> Program:
    """The program of a model, if its float64 run is what the model computes."""
    with torch.no_grad(), cached():
        program = trace(model, input_shape)
        check_precision(model, program)
    return program


def pairwise_of(program: Program, lipschitz: Mapping[str, float]) -> Tensor | None:
    """Constants of the differences of two logits, symmetric, with room for another's proof."""
    head, pairs = head_of(program), pairs_of(program, lipschitz)
    if head is None or pairs is None:
        return None
    constants = pairs * (1 + 2.0**-40)
    if head.roundings:  # another rounds the rows in another order
        norms = torch.linalg.vector_norm(head.rows, dim=1) * lipschitz[head.source]
        constants = constants + 2.0**-40 * (norms[:, None] + norms)
    return torch.maximum(constants, constants.T).fill_diagonal_(0.0)


def save(certificate: Certificate, path: Path, text: str) -> tuple[Path, Path]:
    """Write the text of a certificate and its weights beside it; the weights first."""
    weights = path.with_suffix(".safetensors")
    header = {"graph_sha256": certificate.program.sha256()}
    save_tensors(weights, dict(certificate.program.tensors), header)
    write_atomically(path, (text + "\n").encode())
    return path, weights


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Precision and shape of each tensor, as safetensors names them."""
    return {n: {"dtype": DTYPES[t.dtype], "shape": list(t.shape)} for n, t in tensors.items()}


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, precisions, shapes and bytes, in the order of the names."""
    content = hashlib.sha256(canonical(describe(tensors)).encode())
    for name in sorted(tensors):
        content.update(raw_bytes(tensors[name]))
    return content.hexdigest()


def image_sha256(image: Tensor) -> str:
    """Hash of an image: of its precision, its shape and its bytes."""
    return weights_sha256({"image": image})


def raw_bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor in their order, little-endian."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
