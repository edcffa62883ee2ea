"""The certificate of a model: what is proven of its program, and the file that says so."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from taut.certification._arithmetic import (
    Arithmetic,
    as_arithmetic,
    check_arithmetic,
    conventional,
    norms_upper,
)
from taut.certification._layers import Composed, compose, row
from taut.certification._program import Node, Program, place, program_of
from taut.certification._radius import certified_radius, executed_radius
from taut.files import save_tensors, write_atomically
from taut.lipschitz import LipschitzBound, pairwise_constants, verifiable_bound
from taut.parametrizations import cached

__all__ = ["Certificate", "graph_sha256", "prove", "weights_sha256"]

FORMAT = "taut-certificate"
VERSION = 1
SPACE = "l2 ball around the tensor given to the model, in the units of that tensor"
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class Certificate:
    """What is proven of a model, whatever its input.

    Attributes:
        arithmetic: what the certified program computes in; "real" says nothing of any program.
        input_shape: of one input.
        program: the model written down, with its exported weights.
        bound: proven Lipschitz bound of the logits in real arithmetic; `print` it.
        composed: Lipschitz constant, rounding error and overflow limit.

    Example:
        >>> certificate = prove(nn.Linear(2, 2), (2,))
        >>> certificate.arithmetic, 0 < certificate.composed.error[0] < 1e-14
        ('float64', True)
    """

    arithmetic: Arithmetic
    input_shape: tuple[int, ...]
    program: Program
    bound: LipschitzBound
    composed: Composed

    @property
    def meaning(self) -> str:
        """In words, what the arithmetic says: what the radii hold for."""
        return {
            "float64": "holds for the float64 run of the exported weights",
            "float32": "holds for the model as it runs in float32",
            "real": "holds for real numbers, not for a program that rounds",
        }[self.arithmetic]

    def logits(self, model: nn.Module, images: Float[Tensor, "b ..."]) -> Float[Tensor, "b k"]:
        """The logits of the certified program on a batch.

        In float64 the exported weights run; else the model as it is, computing each weight once.
        """
        like = next(iter(model.parameters()), images)
        images = images.clone()  # the first layer may write over what it is given
        with torch.no_grad(), cached(), conventional():
            if self.arithmetic == "float64":
                return self.program.run.run(place(images, like))
            return model(images.to(like.device))

    def radius(
        self,
        logits: Float[Tensor, "b k"],
        labels: Int[Tensor, " b"],
        images: Float[Tensor, "b ..."],
    ) -> Float[Tensor, " b"]:
        """Certified radii of logits that the certified program computed from these images."""
        if self.arithmetic == "real":
            return certified_radius(logits, labels, self.bound)
        norms = norms_upper(images.to("cpu"))
        return executed_radius(logits, labels, norms, self.bound, self.composed)

    def content(self) -> dict[str, Any]:
        """What the file holds of the model, as plain values."""
        program, real = self.program, self.arithmetic == "real"
        rows = [row(layer) for layer in program.layers]
        exact = ("name", "type", "bound", "proof", "inputs", "combine", "gains")
        pairwise = self.bound.pairwise
        graph = {"input": program.source, "nodes": list(program.nodes), "output": program.output}
        return {
            "format": FORMAT,
            "version": VERSION,
            "arithmetic": self.arithmetic,
            "input": {"shape": list(self.input_shape), "space": SPACE},
            "graph": graph,
            "graph_sha256": graph_sha256(graph),
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
        """The certificate as canonical JSON: equal certificates, equal text."""
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
    model: nn.Module, input_shape: tuple[int, ...], *, arithmetic: str = "float64"
) -> Certificate:
    """The certificate of a model, without any image.

    Args:
        model: made of modules and functions with rules; in eval mode where that matters.
        input_shape: of one input, without the batch.
        arithmetic: "float64", "float32" or "real"; see `taut.certify`.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if anything has no proof, or runs in
            a way that the proof does not cover.
        ValueError: if an argument is wrong.

    Example:
        >>> print(prove(nn.Linear(1, 2, bias=False), (1,)).to_json()[:35])
        {"arithmetic":"float64","bound":...
    """
    arithmetic, shape = as_arithmetic(arithmetic), tuple(input_shape)
    with torch.no_grad(), cached():
        bound = verifiable_bound(model, shape)
        program = program_of(model, shape, bound, real=arithmetic == "real")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    check_arithmetic(arithmetic, program.tensors, device)
    composed = compose(program.layers, program.source, program.output, arithmetic)
    pairwise = None
    if bound.pairwise is not None:
        head = head_of(program.nodes, program.output)
        pairwise = pairwise_of(head, program.tensors, composed.features)
    sound = LipschitzBound(composed.lipschitz, bound.layers, pairwise)
    return Certificate(arithmetic, shape, program, sound, composed)


def head_of(nodes: Sequence[Node], output: str) -> Node:
    """The matrix whose value a graph returns; other nodes may come after it.

    Raises:
        ValueError: if it returns the value of anything else.

    Example:
        >>> head_of(prove(nn.Linear(2, 2), (2,)).program.nodes, "model")["type"]
        'Linear'
    """
    head = next((node for node in nodes if node["name"] == output), None)
    if (
        head is None
        or head["op"] != "affine"
        or head["operator"]["input_size"]
        or len(head["shape"][0]) != 1
    ):
        raise ValueError("Constants of pairs are of graphs that return a matrix times a vector.")
    return head


def pairwise_of(head: Node, tensors: Mapping[str, Tensor], features: float) -> Tensor:
    """Constants of the differences of two logits, symmetric, with room for another's proof.

    Example:
        >>> pairwise_of({"weight": "w"}, {"w": torch.eye(2)}, 1.0).diagonal().tolist()
        [0.0, 0.0]
    """
    constants = pairwise_constants(tensors[head["weight"]], features) * (1 + 2.0**-40)
    return torch.maximum(constants, constants.T)


def save(certificate: Certificate, path: Path, text: str) -> tuple[Path, Path]:
    """Write the text of a certificate and its weights beside it; the weights first."""
    weights = path.with_suffix(".safetensors")
    header = {"graph_sha256": certificate.content()["graph_sha256"]}
    save_tensors(weights, certificate.program.tensors, header)
    write_atomically(path, (text + "\n").encode())
    return path, weights


def canonical(content: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no NaN; floats as Python writes them, exactly.

    Example:
        >>> canonical({"b": [1.5], "a": None})
        '{"a":null,"b":[1.5]}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def graph_sha256(graph: Node) -> str:
    """Hash of a graph, of its canonical JSON.

    Example:
        >>> len(graph_sha256({"nodes": []}))
        64
    """
    return hashlib.sha256(canonical(graph).encode()).hexdigest()


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Precision and shape of each tensor, as safetensors names them.

    Example:
        >>> describe({"w": torch.ones(2)})
        {'w': {'dtype': 'F32', 'shape': [2]}}
    """
    return {n: {"dtype": _DTYPES[t.dtype], "shape": list(t.shape)} for n, t in tensors.items()}


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, precisions, shapes and bytes, in the order of the names.

    Example:
        >>> a, b = torch.zeros(2), torch.ones(2)
        >>> weights_sha256({"a": a, "b": b}) == weights_sha256({"b": b, "a": a})
        True
    """
    content = hashlib.sha256(canonical(describe(tensors)).encode())
    for name in sorted(tensors):
        content.update(raw_bytes(tensors[name]))
    return content.hexdigest()


def raw_bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor in their order, little-endian.

    Example:
        >>> raw_bytes(torch.ones(1)).hex()
        '0000803f'
    """
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
