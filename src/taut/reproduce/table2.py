"""Table 2: convolutions against a dense net and against provable robustness of another kind."""

from taut.reproduce._table import PAPER, Column, Table, ours, quoted

_SOURCE, _TABLE1 = f"{PAPER}, table 2", f"{PAPER}, table 1"

TABLE = Table(
    name="table2",
    title="Clean and certified accuracy beside other provable systems",
    radius="large",
    columns=(Column("clean"), Column("certified")),
    rows=(
        ours("mnist", "large", "BCOP", (98.77, 0.05), (56.66, 0.23), source=_TABLE1),
        ours("mnist", "fc3", "Orthogonal", 98.71, 54.46, source=_SOURCE),
        quoted("mnist", "KW Large", 88.12, 44.53, source=_SOURCE),
        ours("cifar10", "large", "BCOP", (72.41, 0.22), (58.72, 0.23), source=_TABLE1),
        ours("cifar10", "fc3", "Orthogonal", 62.60, 49.97, source=_SOURCE),
        quoted("cifar10", "KW Large", 59.76, 50.60, source=_SOURCE),
        quoted("cifar10", "KW ResNet", 61.20, 51.96, source=_SOURCE),
    ),
)
