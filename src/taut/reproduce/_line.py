"""One line of a comparison."""

from dataclasses import dataclass
from statistics import mean, stdev
from typing import final

from taut.reproduce._table import Measure, Published


@final
@dataclass(frozen=True)
class Quantity:
    """A measure that is no accuracy.

    Args:
        label: what it is called.
    """

    label: str


@final
@dataclass(frozen=True)
class Line:
    """One measure of one system on one data set.

    Args:
        system: what the table calls it.
        dataset: its label.
        measure: what it is of.
        ours: one value a finished run or training; accuracies are in percent.
        published: None where there is none.
        quoted: whether the system is only quoted, from other authors.
        comparable: whether the published value is of the same data.

    Example:
        >>> line = Line("A", "MNIST", Measure("clean", ""), (97.0, 98.0), Published(98.0))
        >>> line.mean, line.difference
        (97.5, -0.5)
    """

    system: str
    dataset: str
    measure: Measure | Quantity
    ours: tuple[float, ...]
    published: Published | None
    quoted: bool = False
    comparable: bool = True

    @property
    def mean(self) -> float | None:
        """Over our runs; None if there is none."""
        return mean(self.ours) if self.ours else None

    @property
    def std(self) -> float | None:
        """Of our runs; None for fewer than two."""
        return stdev(self.ours) if len(self.ours) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours less the published mean; None where they do not compare."""
        if self.mean is None or self.published is None or not self.comparable:
            return None
        return self.mean - self.published.mean
