"""Table 9: proof and attack side by side, with the systems of Qian and Wegman quoted."""

from taut.reproduce._table import PAPER, Column, Table, ours, quoted

_SOURCE = f"{PAPER}, table 9"

TABLE = Table(
    name="table9",
    title="Clean accuracy, certified accuracy, and accuracy after attacks",
    radius="large",
    columns=(Column("clean"), Column("certified"), Column("pgd"), Column("fgsm")),
    rows=(
        ours("mnist", "large", "BCOP", 98.77, 56.66, 86.86, 86.93, source=_SOURCE),
        ours("mnist", "fc3", "Orthogonal", 98.71, 54.46, 81.96, 83.64, source=_SOURCE),
        quoted("mnist", "QW-3", 98.65, 42.13, 86.86, 85.83, source=_SOURCE),
        quoted("mnist", "QW-4", 98.23, 27.59, 86.25, 84.17, source=_SOURCE),
        ours("cifar10", "large", "BCOP", 72.41, 58.72, 64.39, 64.53, source=_SOURCE),
        ours("cifar10", "fc3", "Orthogonal", 62.60, 49.97, 50.05, 50.21, source=_SOURCE),
        quoted("cifar10", "QW-3", 79.15, 44.46, 72.07, 72.11, source=_SOURCE),
        quoted("cifar10", "QW-4", 77.15, 31.41, 71.89, 71.92, source=_SOURCE),
    ),
)
