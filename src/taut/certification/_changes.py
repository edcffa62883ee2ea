"""Changes of an input that are not equal everywhere: bounds of x + D z in z."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from taut.certification._certificate import Certificate, pairwise_of, rows_of_bound
from taut.program import (
    Composed,
    Fold,
    Layer,
    LipschitzBound,
    Node,
    Program,
    compose,
    folds_of,
    layers_of,
)

__all__ = ["Changes", "bound_changes", "compose_moved", "least_shape", "moved"]

MOVED = "changes."
"""Name of what the weights multiply: no layer has one with a dot behind it."""


@final
@dataclass(frozen=True, eq=False)
class Changes:
    r"""Lipschitz constants in z of a model f at x + D z, D = diag(w) with positive factors w.

    D has an inverse, so that x = D y: :math:`f(x + D z) = g(y + z)` with :math:`g = f \circ D`, and
    a bound of g, however it is proven, is one for every x and z. (With zeros in D it would speak of
    x in the range of D alone.)

    Attributes:
        weights: w, of the shape of an input, with 1 where all are equal along an axis.
        bound: of g.
        folds: of g, which begin with the factors.
    """

    weights: Tensor
    bound: LipschitzBound
    folds: tuple[Fold, ...]

    @property
    def stretch(self) -> float:
        """The most that an input moves by for z of norm 1."""
        return self.weights.max().item()

    def content(self) -> dict[str, Any]:
        """What a file holds of them, as plain values."""
        pairwise = self.bound.pairwise
        return {
            "bound": self.bound.value,
            "folds": [fold.content() for fold in self.folds],
            "pairwise": None if pairwise is None else pairwise.tolist(),
            "weights": self.weights.double().tolist(),
        }


def bound_changes(certificate: Certificate, weights: Tensor) -> Changes:
    """The bounds of a certified program behind a factor.

    Args:
        certificate: of the program; its rows stay as they are.
        weights: positive, and of a shape that is broadcast to that of an input.
    """
    weights = least_shape(weights)
    program = moved(certificate.program, weights)
    layers = [layer.widened() for layer in _factor(program)] + [*certificate.layers]
    folds = tuple(folds_of(program, {layer.name: layer for layer in layers}))
    by_name = {fold.name: (fold.input, fold.gain) for fold in folds}
    composed = compose(layers, program.source, program.output, "real", by_name)
    pairs = pairwise_of(program, composed.constants)
    rows = tuple(rows_of_bound(layers, folds))
    used = tuple(dict.fromkeys(fold.by for fold in folds))
    return Changes(weights, LipschitzBound(composed.lipschitz, rows, pairs, used), folds)


def compose_moved(
    program: Program, layers: Sequence[Layer], folds: Mapping[str, tuple[str, float]]
) -> Composed:
    """The composed bounds of a program behind the factor that `moved` put before it."""
    rows = [*_factor(program), *layers]
    return compose(rows, program.source, program.output, "real", folds)


def moved(program: Program, weights: Tensor) -> Program:
    """The program behind a factor: the factor is called as the input was, so that all read it."""
    if MOVED in program.tensors or any(node.name == MOVED for node in program.nodes):
        raise ValueError(f"No layer and no tensor of a program may be called {MOVED!r}.")
    factor = Node(
        program.source,
        "scale",
        (MOVED,),
        program.input_shape,
        tensors={"factor": MOVED},
        type="mul",
    )
    tensors = {**program.tensors, MOVED: weights}
    return replace(program, nodes=(factor, *program.nodes), tensors=tensors, source=MOVED)


def _factor(program: Program) -> Iterable[Layer]:
    """The row of the factor alone."""
    first = program.nodes[0]
    alone = replace(program, nodes=(first,), output=first.name, modules={})
    return layers_of(alone, real=True)


def least_shape(weights: Tensor) -> Tensor:
    """The weights with one entry along each axis along which they are equal."""
    for axis in range(weights.dim()):
        first = weights.narrow(axis, 0, 1)
        weights = first if torch.equal(first.expand_as(weights), weights) else weights
    return weights
