"""How a Lipschitz constant changes with the norms of single layers."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from taut.program._compose import Layer, compose
from taut.program._composition import Composition
from taut.program._folds import Fold, fold_of
from taut.program._program import Program

__all__ = ["shares_of"]

_STEP = 1 + 2.0**-20


def shares_of(
    program: Program, composition: Composition, value: str, names: Iterable[str]
) -> dict[str, float]:
    r"""The share of each layer in a constant: :math:`\partial \log L / \partial \log g`.

    It is 1 for layers in series, :math:`a / (a + b)` in one of two branches of constants a and b
    that are added, and 0 for layers that the constant does not depend on. By a difference quotient,
    one composition for each layer.

    Args:
        program: of a model.
        composition: its proof; the norm of a layer is a factor of a fold that it is in.
        value: the name of the value that L is the constant of.
        names: of the layers.

    Example:
        >>> program = taut.program.trace(torch.nn.Linear(2, 2), (2,))
        >>> proven = taut.program.composition_of(program, "real")
        >>> shares = shares_of(program, proven, program.output, [program.output])
        >>> [round(share, 6) for share in shares.values()]
        [1.0]
    """

    def constant(stretched: str) -> float:
        rows = {layer.name: _stretched(layer, stretched) for layer in composition.layers}
        known = _known(program, rows, composition.folds, stretched)
        found = compose([*rows.values()], program.source, program.output, "real", known)
        return found.constants[value]

    now = constant("")
    if now == 0.0:
        return dict.fromkeys(names, 0.0)
    return {name: math.log(constant(name) / now) / math.log(_STEP) for name in names}


def _stretched(layer: Layer, name: str) -> Layer:
    """The row; that of the layer which is stretched has larger gains."""
    if layer.name != name:
        return layer
    return replace(layer, gains=tuple(gain * _STEP for gain in layer.gains))


def _known(
    program: Program, rows: Mapping[str, Layer], folds: Sequence[Fold], stretched: str
) -> dict[str, tuple[str, float]]:
    """The folds where one layer is stretched."""
    known: dict[str, tuple[str, float]] = {}
    for fold in folds:
        gain = fold.gain
        if fold.by == "follow_parts":
            again = fold_of(program, fold.name, {}, rows, known)
            gain = again.gain if again is not None else gain
        elif stretched in _between(program, fold):
            gain *= _STEP
        known[fold.name] = (fold.input, gain)
    return known


def _between(program: Program, fold: Fold) -> Iterator[str]:
    """The operations of a fold, which are in a row."""
    inputs, name = {node.name: node.inputs for node in program.nodes}, fold.name
    while name != fold.input:
        yield name
        name = inputs[name][0]
