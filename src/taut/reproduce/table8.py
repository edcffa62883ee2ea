"""Table 8: certified accuracy at the smaller radius."""

from taut.reproduce._table import PAPER, Column, Table, ours

_SOURCE = f"{PAPER}, table 8"

TABLE = Table(
    name="table8",
    title="Clean and certified accuracy at the smaller radius",
    radius="small",
    columns=(Column("clean"), Column("certified")),
    rows=(
        ours("mnist", "large", "BCOP", 98.77, 97.11, source=_SOURCE),
        ours("mnist", "fc3", "Orthogonal", 98.71, 97.06, source=_SOURCE),
        ours("cifar10", "large", "BCOP", 72.41, 62.97, source=_SOURCE),
        ours("cifar10", "fc3", "Orthogonal", 62.60, 53.67, source=_SOURCE),
    ),
)
