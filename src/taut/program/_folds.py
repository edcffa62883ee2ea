r"""Values that are one function of an earlier one, as certificates hold them.

Convolutions and matrices with the factors of channels around them; and parts of one value that are
side by side again, see `taut.program._splits`.

A fold says that a value is such a function of an earlier one, of norm at most `gain`. That of a
convolution is proven from the product kernel :math:`K'`, computed in float64 by whoever checks, in
an order of his own: with :math:`\| |K'| \| \le` `absolute` two such kernels differ by a norm of
at most :math:`\gamma_m` `absolute`, for which the gain has room.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from taut.linalg.rounding import up_product, up_sum
from taut.program._compose import Layer, widened
from taut.program._program import Node, Program
from taut.program._splits import split_gain, split_of
from taut.program.passes._affine import Terms, affine_terms

__all__ = ["Fold", "fold_of", "folds_of"]

_FACTORS = ("batch_norm", "scale", "divide", "neg", "add")
_KERNELS = ("conv", "conv_transpose", "linear")
_PARTS = "parts of one value, side by side"
_ROOM = 2.0**-40
"""For the roundings of another's product kernel, as a share of `absolute`."""


@final
@dataclass(frozen=True)
class Fold:
    """A value as one convolution of an earlier one, or as its parts side by side.

    Attributes:
        name: of the value.
        input: of the earlier value.
        gain: proven Lipschitz constant.
        absolute: norm bound of the convolution with absolute values for entries; 0 for parts.
        proof: of the gain, in words.

    Example:
        >>> Fold("bn", "input", 1.0, 2.0, "spectral norm").content()["gain"]
        1.0
    """

    name: str
    input: str
    gain: float
    absolute: float
    proof: str

    @property
    def by(self) -> str:
        """The pass that it comes from."""
        return "follow_parts" if self.proof == _PARTS else "compose_affine"

    def content(self) -> dict[str, Any]:
        """The fold in the form that a certificate holds."""
        return {
            "name": self.name,
            "input": self.input,
            "gain": self.gain,
            "absolute": self.absolute,
            "proof": self.proof,
        }


def folds_of(program: Program, layers: Mapping[str, Layer]) -> list[Fold]:
    """The folds that are sharper than the rows of a program one by one.

    Args:
        program: of a model.
        layers: its rows, by name.
    """
    terms = affine_terms(program)
    nodes = {node.name: node for node in program.nodes}
    made = {name for name, value in terms.items() if _is_fold(name, value, nodes)}
    inside = {part for name in made for term in terms[name].values() for part in term.nodes[:-1]}
    folds: list[Fold] = []
    for name, value in terms.items():
        if name in inside or name not in made:
            known = {fold.name: (fold.input, fold.gain) for fold in folds}
            split = _split(program, name, layers, known) if name in nodes else None
            folds += [split] if split is not None else []
            continue
        fold = _proven(name, value)
        product = math.prod(layers[part].gains[0] for part in next(iter(value.values())).nodes)
        folds += [fold] if fold is not None and fold.gain < product * (1 - 1e-6) else []
    return folds


def fold_of(
    program: Program,
    name: str,
    terms: Mapping[str, Terms],
    layers: Mapping[str, Layer],
    known: Mapping[str, tuple[str, float]],
) -> Fold | None:
    """The fold of a value, least gain and all, if it is one.

    Args:
        program: of a model.
        name: of the value.
        terms: of all values, see `affine_terms`.
        layers: the rows, by name.
        known: folds that were proven before, an earlier value and a gain by the name of a value.
    """
    nodes = {node.name: node for node in program.nodes}
    value = terms.get(name, {})
    if _is_fold(name, value, nodes):
        return _proven(name, value, wide=False)
    return _split(program, name, layers, known) if name in nodes else None


def _split(
    program: Program,
    name: str,
    layers: Mapping[str, Layer],
    known: Mapping[str, tuple[str, float]],
) -> Fold | None:
    split = split_of(program, name)
    if split is None:
        return None
    return Fold(name, split.source, split_gain(program, split, layers, known), 0.0, _PARTS)


def _is_fold(name: str, value: Terms, nodes: Mapping[str, Node]) -> bool:
    """Whether a value is one convolution or matrix between factors of channels, in a row."""
    if len(value) != 1:
        return False
    ((source, term),) = value.items()
    kinds: list[str] = []
    while name != source:
        if name not in nodes or len(nodes[name].inputs) != 1:
            return False
        kinds.append(nodes[name].op)
        (name,) = nodes[name].inputs
    main = [kind for kind in kinds if kind in _KERNELS]
    return len(term.nodes) > 1 and len(main) == 1 and {*kinds} <= {*_FACTORS, *main}


def _proven(name: str, value: Terms, *, wide: bool = True) -> Fold | None:
    ((source, term),) = value.items()
    try:
        bound, absolute = term.map.norm_bound(), term.map.abs_norm_bound()
    except ValueError:  # a product that overflows
        return None
    if not wide:
        return Fold(name, source, bound.value, absolute, bound.proof)
    absolute = widened(absolute)
    rows = max(term.map.kernel.shape[:2])
    gain = up_sum(widened(bound.value, rows), up_product(_ROOM, absolute))
    return Fold(name, source, gain, absolute, bound.proof)
