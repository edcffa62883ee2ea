"""Table 3: accuracy after attacks, at the larger radius."""

from taut.reproduce._table import PAPER, Column, Table, ours, quoted

_SOURCE = f"{PAPER}, table 3"
_HUNDRED = 100

TABLE = Table(
    name="table3",
    title="Accuracy after attacks",
    radius="large",
    columns=(
        Column("clean"),
        Column("pgd"),
        Column("fgsm"),
        Column("clean", _HUNDRED),
        Column("boundary", _HUNDRED),
        Column("pointwise", _HUNDRED),
    ),
    rows=(
        quoted("cifar10", "KW Small", 54.39, 49.94, 49.98, 63.0, 60.0, 63.0, source=_SOURCE),
        ours("cifar10", "small", "BCOP", 64.53, 51.26, 51.57, 74.2, 61.2, 74.0, source=_SOURCE),
        quoted("cifar10", "KW Large", 60.14, 55.53, 55.55, 68.0, 64.0, 68.0, source=_SOURCE),
        ours("cifar10", "large", "BCOP", 72.41, 64.39, 64.53, 77.6, 71.2, 77.2, source=_SOURCE),
    ),
)
