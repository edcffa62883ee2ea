r"""Convolutions and matrices with the factors of channels around them, as certificates hold them.

A fold says that a value is one convolution of an earlier one, of norm at most `gain`. It is proven
from the product kernel :math:`K'`, computed in float64 by whoever checks, in an order of his own:
with :math:`\| |K'| \| \le` `absolute` two such kernels differ by a norm of at most
:math:`\gamma_m` `absolute`, for which the gain has room.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from taut.linalg.rounding import up_product, up_sum
from taut.program._compose import Layer, widened
from taut.program._program import Node, Program
from taut.program.passes._affine import Terms, affine_terms

__all__ = ["Fold", "fold_of", "folds_of"]

_FACTORS = ("batch_norm", "scale", "divide", "neg", "add")
_KERNELS = ("conv", "conv_transpose", "linear")
_ROOM = 2.0**-40
"""For the roundings of another's product kernel, as a share of `absolute`."""


@final
@dataclass(frozen=True)
class Fold:
    """A value as one convolution of an earlier one.

    Attributes:
        name: of the value.
        input: of the earlier value.
        gain: proven norm of the convolution.
        absolute: norm bound of the convolution with absolute values for entries.
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

    def content(self) -> dict[str, Any]:
        """The fold as it stands in a certificate."""
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
    inside = {name for value in terms.values() for term in value.values()
              for name in term.nodes[:-1] if _is_fold(value, nodes)}  # fmt: skip
    folds = []
    for name, value in terms.items():
        if name in inside or not _is_fold(value, nodes):
            continue
        fold = _proven(name, value)
        product = math.prod(layers[part].gains[0] for part in next(iter(value.values())).nodes)
        folds += [fold] if fold is not None and fold.gain < product * (1 - 1e-6) else []
    return folds


def fold_of(program: Program, name: str, terms: Mapping[str, Terms]) -> Fold | None:
    """The fold of a value, least gain and all, if it is one."""
    nodes = {node.name: node for node in program.nodes}
    value = terms.get(name, {})
    return _proven(name, value, wide=False) if _is_fold(value, nodes) else None


def _is_fold(value: Terms, nodes: Mapping[str, Node]) -> bool:
    """Whether a value is one convolution or matrix between factors of channels."""
    if len(value) != 1:
        return False
    (term,) = value.values()
    kinds = [nodes[name].op for name in term.nodes]
    single = all(len(nodes[name].inputs) == 1 for name in term.nodes)
    main = [kind for kind in kinds if kind in _KERNELS]
    return single and len(kinds) > 1 and len(main) == 1 and {*kinds} <= {*_FACTORS, *main}


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
