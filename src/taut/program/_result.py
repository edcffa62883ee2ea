"""What a bound of a model is made of, and how a refusal looks."""

from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from taut._display import html_table, rounded_up

_NAMES = ("layer", "type", "bound", "proof")
_SHOWN = 30  # rows in HTML

__all__ = ["LayerBound", "LipschitzBound", "UnprovenError"]


@final
class UnprovenError(NotImplementedError, ValueError):
    """A part of the model has no proven bound; the message names the part and a remedy.

    Also a ValueError, so that code that shows wrong input to a user in one sentence shows this too.

    >>> issubclass(UnprovenError, NotImplementedError)
    True
    """


@final
@dataclass(frozen=True)
class LayerBound:
    """One row of a bound: the factor of a layer, or of a sum or concatenation of branches.

    Attributes:
        name: of the layer, the last one of several that were composed.
        type: of the layers.
        bound: Lipschitz constant, proven.
        proof: in words.
        excess: at most so many times the true norm, by an estimate of that; None where the bound
            is no norm bound, or is as tight as its proof can be.

    >>> LayerBound("0", "ReLU", 1.0, "slope at most 1").bound
    1.0
    """

    name: str
    type: str
    bound: float
    proof: str
    excess: float | None = None


@final
@dataclass(frozen=True, repr=False)
class LipschitzBound:
    """A proven l2 Lipschitz constant of a model, with the row of each layer.

    `float(b)` is the constant, `str(b)` a table.

    Attributes:
        value: the constant.
        layers: one row per layer, in the order of execution.
        pairwise: for a model that ends in a matrix, (classes, classes) constants of the differences
            of two outputs, from the rows of the matrix; None for other models.
        passes: names of the passes that made a difference.

    Example:
        >>> print(LipschitzBound(2.0, (LayerBound("fc", "Linear", 2.0, "spectral norm"),)))
        layer  type    bound  proof
        fc     Linear  2      spectral norm
        total          2
    """

    value: float
    layers: tuple[LayerBound, ...] = ()
    pairwise: Tensor | None = field(default=None, compare=False, repr=False)
    passes: tuple[str, ...] = ()

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        most = max(self.layers, key=lambda row: row.bound, default=None)
        largest = most and f", the largest {rounded_up(most.bound, 6)} of {most.name}"
        pairs = "" if self.pairwise is None else "; constants of each pair of outputs"
        return (
            f"LipschitzBound: {rounded_up(self.value)} in l2\n"
            f"  {len(self.layers)} layers{largest or ''}{pairs}\n"
            "  print() shows each layer with its proof"
        )

    def _rows(self) -> list[tuple[str, str, str, str]]:
        rows = [
            (row.name, row.type, rounded_up(row.bound, 8), row.proof + _above(row.excess))
            for row in self.layers
        ]
        return [*rows, ("total", "", rounded_up(self.value, 8), "")]

    def _repr_html_(self) -> str:
        rows = self._rows()
        if len(rows) > _SHOWN:
            between = ("...", f"{len(rows) - _SHOWN} more", "", "")
            rows = [*rows[: _SHOWN // 2], between, *rows[-_SHOWN // 2 :]]
        return html_table(rows, _NAMES)

    def __str__(self) -> str:
        rows = [_NAMES, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def _above(excess: float | None) -> str:
    return "" if excess is None else f"; at most {excess - 1:.2%} above the norm"
