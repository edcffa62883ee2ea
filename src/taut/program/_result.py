"""What a bound of a model is made of, and how a refusal looks."""

import html
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

__all__ = ["LayerBound", "LipschitzBound", "UnprovenError"]


@final
class UnprovenError(NotImplementedError, ValueError):
    """Something in the model has no proven bound; the message names it and what to do.

    Also a ValueError, so that code that shows wrong input to a user in one sentence shows this too.

    >>> issubclass(UnprovenError, NotImplementedError)
    True
    """


@final
@dataclass(frozen=True)
class LayerBound:
    """One row of a bound: by how much a layer, or a place where branches meet, multiplies it.

    >>> LayerBound("0", "ReLU", 1.0, "slope at most 1").bound
    1.0
    """

    name: str
    type: str
    bound: float
    proof: str


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

    Example:
        >>> print(LipschitzBound(2.0, (LayerBound("fc", "Linear", 2.0, "spectral norm"),)))
        layer  type    bound  proof
        fc     Linear  2      spectral norm
        total          2
    """

    value: float
    layers: tuple[LayerBound, ...] = ()
    pairwise: Tensor | None = field(default=None, compare=False, repr=False)

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        most = max(self.layers, key=lambda row: row.bound, default=None)
        largest = "" if most is None else f", the largest {most.bound:.6g} of {most.name}"
        pairs = "" if self.pairwise is None else "; constants of each pair of outputs"
        return (
            f"LipschitzBound: {self.value:.9g} in l2\n"
            f"  {len(self.layers)} layers{largest}{pairs}\n"
            "  print() shows each layer with its proof"
        )

    def _rows(self) -> list[tuple[str, str, str, str]]:
        rows = [("layer", "type", "bound", "proof")]
        rows += [(row.name, row.type, f"{row.bound:.8g}", row.proof) for row in self.layers]
        return [*rows, ("total", "", f"{self.value:.8g}", "")]

    def _repr_html_(self) -> str:
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self._rows())
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)
