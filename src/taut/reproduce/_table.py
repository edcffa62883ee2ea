"""A published table as data: systems, measures, values and where each value stands."""

from dataclasses import dataclass
from typing import Literal, final

from taut.models.config import PaperArchitecture

Kind = Literal["clean", "certified", "pgd", "fgsm", "boundary", "pointwise"]
Radius = Literal["small", "large"]

PAPER = "Li et al. (2019), arXiv:1911.00937"
_SYSTEM_NAMES = {"small": "Small", "large": "Large", "fc3": "FC-3"}


@final
@dataclass(frozen=True)
class Published:
    """A value as it was published: an accuracy in percent, or a lower bound of W1.

    Args:
        mean: over seeds where there are several.
        std: over seeds; None where it is not given.
    """

    mean: float
    std: float | None = None


@final
@dataclass(frozen=True)
class Column:
    """What is measured of every system.

    Args:
        kind: accuracy without a perturbation, certified, or after an attack.
        first: on how many of the first test images; None is all of them.
    """

    kind: Kind
    first: int | None = None


@final
@dataclass(frozen=True)
class Measure:
    """A column on one data set, by one setting.

    Args:
        kind: as of the column.
        eps: l2 radius, as text.
        images: on how many of the first test images; None is all of them.

    Example:
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
class Row:
    """One system on one data set.

    Args:
        dataset: what the values were published for, as `taut.data.load` names it.
        system: what tables call it.
        published: one value a column; empty where nothing was published.
        source: where the values stand.
        architecture: of the net that does it again; None for a system that is only quoted.
        method: its parametrization; None for a system that is only quoted.

    Example:
        >>> ours("mnist", "small", "RKO", 97.28, 43.58, source="table 1").system
        'RKO Small'
    """

    dataset: str
    system: str
    published: tuple[Published, ...]
    source: str
    architecture: PaperArchitecture | None = None
    method: str | None = None


@final
@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Args:
        name: what the command line calls it.
        title: what it is about.
        radius: which of the two radii of a data set it certifies and attacks at.
        columns: what is measured.
        rows: in the paper's order.
    """

    name: str
    title: str
    radius: Radius
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def ours(
    dataset: str,
    architecture: PaperArchitecture,
    method: str,
    *values: float | tuple[float, float],
    source: str,
) -> Row:
    """A row that taut does again.

    Args:
        dataset: as `taut.data.load` names it.
        architecture: of the paper.
        method: the parametrization of its layers.
        *values: published, one a column: the mean, or mean and standard deviation.
        source: where the values stand.
    """
    name = _SYSTEM_NAMES[architecture]
    system = name if architecture == "fc3" else f"{method} {name}"
    return Row(dataset, system, _published(values), source, architecture, method)


def quoted(dataset: str, system: str, *values: float | tuple[float, float], source: str) -> Row:
    """A row that is only quoted.

    Args:
        dataset: as `taut.data.load` names it.
        system: what the paper calls it.
        *values: published, one a column.
        source: where the values stand.

    Example:
        >>> quoted("mnist", "KW Large", 88.12, 44.53, source="table 2").method is None
        True
    """
    return Row(dataset, system, _published(values), source)


def _published(values: tuple[float | tuple[float, float], ...]) -> tuple[Published, ...]:
    return tuple(Published(*v) if isinstance(v, tuple) else Published(v) for v in values)
