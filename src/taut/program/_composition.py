"""What is proven of a program: its rows, the folds that are sharper, and what they amount to."""

from dataclasses import dataclass
from typing import final

from taut.program._compose import Composed, Layer, compose
from taut.program._folds import Fold, folds_of
from taut.program._program import Program
from taut.program._walk import Progress, layers_of

__all__ = ["Composition", "composition_of"]


@final
@dataclass(frozen=True, eq=False)
class Composition:
    """The proof of a program, in the form that certificates hold.

    Attributes:
        layers: one row for each operation, with room for another's proof.
        folds: convolutions and matrices with the factors of channels around them, as one.
        composed: Lipschitz constants, rounding error and overflow limit.

    Example:
        >>> Composition((), (), taut.program.Composed(1.0)).composed.lipschitz
        1.0
    """

    layers: tuple[Layer, ...]
    folds: tuple[Fold, ...]
    composed: Composed


def composition_of(
    program: Program, arithmetic: str, progress: Progress | None = None
) -> Composition:
    """Prove all operations of a program, and compose them.

    Args:
        program: of a model.
        arithmetic: "float32", "float64" or "real", which has no rounding.
        progress: called with each layer before it is bounded, and the share that is done.

    Raises:
        UnprovenError: if anything has no proof, or a number may overflow.

    Example:
        >>> program = taut.program.trace(torch.nn.ReLU(), (3,))
        >>> composition_of(program, "real").composed.lipschitz
        1.0
    """
    rows = layers_of(program, real=arithmetic == "real", progress=progress)
    layers = tuple(layer.widened() for layer in rows)
    folds = tuple(folds_of(program, {layer.name: layer for layer in layers}))
    by_name = {fold.name: (fold.input, fold.gain) for fold in folds}
    composed = compose(layers, program.source, program.output, arithmetic, by_name)
    return Composition(layers, folds, composed)
