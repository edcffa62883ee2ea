"""Table 1: four parametrizations, two architectures, two data sets."""

from taut.reproduce._table import PAPER, Column, Table, ours

_SOURCE = f"{PAPER}, table 1"

TABLE = Table(
    name="table1",
    title="Clean and certified accuracy by parametrization",
    radius="large",
    columns=(Column("clean"), Column("certified")),
    rows=(
        ours("mnist", "small", "OSSN", 96.86, 42.95, source=_SOURCE),
        ours("mnist", "small", "RKO", 97.28, 43.58, source=_SOURCE),
        ours("mnist", "small", "SVCM", 97.24, 28.94, source=_SOURCE),
        ours("mnist", "small", "BCOP", (97.54, 0.06), (45.84, 0.90), source=_SOURCE),
        ours("mnist", "large", "OSSN", 98.31, 53.77, source=_SOURCE),
        ours("mnist", "large", "RKO", 98.44, 55.18, source=_SOURCE),
        ours("mnist", "large", "SVCM", 97.93, 38.00, source=_SOURCE),
        ours("mnist", "large", "BCOP", (98.77, 0.05), (56.66, 0.23), source=_SOURCE),
        ours("cifar10", "small", "OSSN", 62.18, 48.03, source=_SOURCE),
        ours("cifar10", "small", "RKO", 61.77, 47.46, source=_SOURCE),
        ours("cifar10", "small", "SVCM", 62.39, 47.59, source=_SOURCE),
        ours("cifar10", "small", "BCOP", (64.53, 0.30), (50.01, 0.21), source=_SOURCE),
        ours("cifar10", "large", "OSSN", 67.51, 53.64, source=_SOURCE),
        ours("cifar10", "large", "RKO", 70.01, 55.76, source=_SOURCE),
        ours("cifar10", "large", "SVCM", 69.65, 53.61, source=_SOURCE),
        ours("cifar10", "large", "BCOP", (72.41, 0.22), (58.72, 0.23), source=_SOURCE),
    ),
)
