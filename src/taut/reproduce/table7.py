"""Table 7: what training the kernels brings, and what a looser bound costs."""

from taut.reproduce._table import PAPER, Column, Table, ours

_SOURCE = f"{PAPER}, table 7"

TABLE = Table(
    name="table7",
    title="Clean and certified accuracy of frozen kernels and of a looser bound",
    radius="large",
    columns=(Column("clean"), Column("certified")),
    rows=(
        ours("mnist", "small", "BCOPFixed", 93.57, 7.51, source=_SOURCE),
        ours("mnist", "small", "RKL2NE", 95.85, 39.77, source=_SOURCE),
        ours("mnist", "small", "BCOP", 97.54, 45.84, source=_SOURCE),
        ours("mnist", "large", "BCOPFixed", 65.20, 0.00, source=_SOURCE),
        ours("mnist", "large", "RKL2NE", 96.76, 37.79, source=_SOURCE),
        ours("mnist", "large", "BCOP", 98.77, 56.66, source=_SOURCE),
        ours("cifar10", "small", "BCOPFixed", 50.61, 36.44, source=_SOURCE),
        ours("cifar10", "small", "RKL2NE", 58.82, 44.65, source=_SOURCE),
        ours("cifar10", "small", "BCOP", 64.53, 50.01, source=_SOURCE),
        ours("cifar10", "large", "BCOPFixed", 47.14, 27.43, source=_SOURCE),
        ours("cifar10", "large", "RKL2NE", 56.75, 43.40, source=_SOURCE),
        ours("cifar10", "large", "BCOP", 72.41, 58.72, source=_SOURCE),
    ),
)
