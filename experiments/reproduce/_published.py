"""The paper's tables of classifiers as data: systems, measures, values and where each stands.

To add a table, add it to `TABLES`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

Kind = Literal["clean", "certified", "pgd", "fgsm", "boundary", "pointwise"]
Radius = Literal["small", "large"]

PAPER = "Li et al. (2019), arXiv:1911.00937"
_SYSTEM_NAMES = {"small": "Small", "large": "Large", "fc3": "FC-3"}


@final
@dataclass(frozen=True)
class PublishedValue:
    """An accuracy in percent, or a lower bound of W1; the deviation over seeds, where given."""

    mean: float
    std: float | None = None


@final
@dataclass(frozen=True)
class Column:
    """What is measured of every system: on the first test images, or on all of them."""

    kind: Kind
    first: int | None = None


@final
@dataclass(frozen=True)
class Measure:
    """A column on one data set, by one setting: its radius as text, and on how many images.

    >>> Measure("pgd", "36/255", 100).label
    'PGD at 36/255, first 100'
    """

    kind: Kind
    eps: str
    images: int | None = None

    @property
    def label(self) -> str:
        """What it is called, in tables and in run folders."""
        kind = self.kind.upper() if self.kind in ("pgd", "fgsm") else self.kind
        name = kind if kind == "clean" else f"{kind} at {self.eps}"
        return name if self.images is None else f"{name}, first {self.images}"


@final
@dataclass(frozen=True)
class TableRow:
    """One system on one data set."""

    dataset: str  # what the values were published for, as `taut.data.load` names it
    system: str  # what tables call it
    published: tuple[PublishedValue, ...]  # one value a column; empty where nothing was published
    source: str = ""  # where the values stand
    # Of the net that does it again; None for a system that is only quoted.
    architecture: str | None = None
    method: str | None = None  # its parametrization; None for a system that is only quoted


@final
@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper."""

    name: str  # what the command line calls it
    title: str  # what it is about
    radius: Radius  # which of the two radii of a data set it certifies and attacks at
    columns: tuple[Column, ...]  # what is measured
    rows: tuple[TableRow, ...]  # in the paper's order


Value = float | tuple[float, float]  # the mean, or mean and standard deviation


def ours(
    dataset: str, architecture: str, method: str, *values: Value, source: str = ""
) -> TableRow:
    """A row that taut does again."""
    name = _SYSTEM_NAMES[architecture]
    system = name if architecture == "fc3" else f"{method} {name}"
    return TableRow(dataset, system, _values(values), source, architecture, method)


def quoted(dataset: str, system: str, *values: Value, source: str = "") -> TableRow:
    """A row that is only quoted."""
    return TableRow(dataset, system, _values(values), source)


def _values(values: tuple[Value, ...]) -> tuple[PublishedValue, ...]:
    return tuple(PublishedValue(*v) if isinstance(v, tuple) else PublishedValue(v) for v in values)


def _table(
    name: str, title: str, radius: Radius, columns: Sequence[Column | Kind], *rows: TableRow
) -> PublishedTable:
    """A table whose rows stand in it, unless they say where."""
    source = f"{PAPER}, {name.replace('table', 'table ')}"
    return PublishedTable(
        name,
        title,
        radius,
        tuple(column if isinstance(column, Column) else Column(column) for column in columns),
        tuple(replace(row, source=row.source or source) for row in rows),
    )


_TABLE1 = f"{PAPER}, table 1"
_FEW = tuple(Column(kind, 100) for kind in ("clean", "boundary", "pointwise"))

TABLES: dict[str, PublishedTable] = {
    table.name: table
    for table in (
        _table(
            "table1",
            "Clean and certified accuracy by parametrization",
            "large",
            ("clean", "certified"),
            ours("mnist", "small", "OSSN", 96.86, 42.95),
            ours("mnist", "small", "RKO", 97.28, 43.58),
            ours("mnist", "small", "SVCM", 97.24, 28.94),
            ours("mnist", "small", "BCOP", (97.54, 0.06), (45.84, 0.90)),
            ours("mnist", "large", "OSSN", 98.31, 53.77),
            ours("mnist", "large", "RKO", 98.44, 55.18),
            ours("mnist", "large", "SVCM", 97.93, 38.00),
            ours("mnist", "large", "BCOP", (98.77, 0.05), (56.66, 0.23)),
            ours("cifar10", "small", "OSSN", 62.18, 48.03),
            ours("cifar10", "small", "RKO", 61.77, 47.46),
            ours("cifar10", "small", "SVCM", 62.39, 47.59),
            ours("cifar10", "small", "BCOP", (64.53, 0.30), (50.01, 0.21)),
            ours("cifar10", "large", "OSSN", 67.51, 53.64),
            ours("cifar10", "large", "RKO", 70.01, 55.76),
            ours("cifar10", "large", "SVCM", 69.65, 53.61),
            ours("cifar10", "large", "BCOP", (72.41, 0.22), (58.72, 0.23)),
        ),
        _table(
            "table2",
            "Clean and certified accuracy beside other provable systems",
            "large",
            ("clean", "certified"),
            ours("mnist", "large", "BCOP", (98.77, 0.05), (56.66, 0.23), source=_TABLE1),
            ours("mnist", "fc3", "Orthogonal", 98.71, 54.46),
            quoted("mnist", "KW Large", 88.12, 44.53),
            ours("cifar10", "large", "BCOP", (72.41, 0.22), (58.72, 0.23), source=_TABLE1),
            ours("cifar10", "fc3", "Orthogonal", 62.60, 49.97),
            quoted("cifar10", "KW Large", 59.76, 50.60),
            quoted("cifar10", "KW ResNet", 61.20, 51.96),
        ),
        _table(
            "table3",
            "Accuracy after attacks",
            "large",
            ("clean", "pgd", "fgsm", *_FEW),
            quoted("cifar10", "KW Small", 54.39, 49.94, 49.98, 63.0, 60.0, 63.0),
            ours("cifar10", "small", "BCOP", 64.53, 51.26, 51.57, 74.2, 61.2, 74.0),
            quoted("cifar10", "KW Large", 60.14, 55.53, 55.55, 68.0, 64.0, 68.0),
            ours("cifar10", "large", "BCOP", 72.41, 64.39, 64.53, 77.6, 71.2, 77.2),
        ),
        _table(
            "table7",
            "Clean and certified accuracy of frozen kernels and of a looser bound",
            "large",
            ("clean", "certified"),
            ours("mnist", "small", "BCOPFixed", 93.57, 7.51),
            ours("mnist", "small", "RKL2NE", 95.85, 39.77),
            ours("mnist", "small", "BCOP", 97.54, 45.84),
            ours("mnist", "large", "BCOPFixed", 65.20, 0.00),
            ours("mnist", "large", "RKL2NE", 96.76, 37.79),
            ours("mnist", "large", "BCOP", 98.77, 56.66),
            ours("cifar10", "small", "BCOPFixed", 50.61, 36.44),
            ours("cifar10", "small", "RKL2NE", 58.82, 44.65),
            ours("cifar10", "small", "BCOP", 64.53, 50.01),
            ours("cifar10", "large", "BCOPFixed", 47.14, 27.43),
            ours("cifar10", "large", "RKL2NE", 56.75, 43.40),
            ours("cifar10", "large", "BCOP", 72.41, 58.72),
        ),
        _table(
            "table8",
            "Clean and certified accuracy at the smaller radius",
            "small",
            ("clean", "certified"),
            ours("mnist", "large", "BCOP", 98.77, 97.11),
            ours("mnist", "fc3", "Orthogonal", 98.71, 97.06),
            ours("cifar10", "large", "BCOP", 72.41, 62.97),
            ours("cifar10", "fc3", "Orthogonal", 62.60, 53.67),
        ),
        _table(
            "table9",
            "Clean accuracy, certified accuracy, and accuracy after attacks",
            "large",
            ("clean", "certified", "pgd", "fgsm"),
            ours("mnist", "large", "BCOP", 98.77, 56.66, 86.86, 86.93),
            ours("mnist", "fc3", "Orthogonal", 98.71, 54.46, 81.96, 83.64),
            quoted("mnist", "QW-3", 98.65, 42.13, 86.86, 85.83),
            quoted("mnist", "QW-4", 98.23, 27.59, 86.25, 84.17),
            ours("cifar10", "large", "BCOP", 72.41, 58.72, 64.39, 64.53),
            ours("cifar10", "fc3", "Orthogonal", 62.60, 49.97, 50.05, 50.21),
            quoted("cifar10", "QW-3", 79.15, 44.46, 72.07, 72.11),
            quoted("cifar10", "QW-4", 77.15, 31.41, 71.89, 71.92),
        ),
    )
}
