"""Learning rate schedules as pure functions of the step, so that a resumed run needs no state."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from taut._arguments import check_fields, each, unit_share


class AbstractSchedule(ABC):
    """A schedule of the learning rate and Adam's beta1: a frozen dataclass.

    SGD has beta1 as its momentum.

    A subclass states its `kind`, the name that recipes and the command line use.
    """

    kind: ClassVar[str]

    @abstractmethod
    def factor(self, step: int, *, steps_per_epoch: int, epochs: int) -> float:
        """The factor of the peak learning rate, in (0, 1], after `step` optimiser steps."""

    @abstractmethod
    def beta1(self, step: int, total: int) -> float:
        """Adam's beta1 after `step` of `total` optimiser steps."""


@final
@dataclass(frozen=True)
class OneCycle(AbstractSchedule):
    """A cosine from 1/25 up to 1 over three tenths of the steps, and down to 4e-6 over the rest.

    Beta1 goes from 0.95 down to 0.85 at the peak rate and back: torch's `OneCycleLR` with its
    defaults.

    Reference:
        Smith and Topin (2017), *Super-Convergence*, arXiv:1708.07120.

    Example:
        >>> [round(OneCycle().factor(s, steps_per_epoch=11, epochs=1), 3) for s in (0, 2, 10)]
        [0.04, 0.96, 0.0]
        >>> [round(OneCycle().beta1(step, 11), 3) for step in (0, 2, 10)]
        [0.95, 0.854, 0.95]
    """

    kind = "one-cycle"

    def factor(self, step: int, *, steps_per_epoch: int, epochs: int) -> float:
        rising, height = self._cycle(step, steps_per_epoch * epochs)
        low = 1 / 25 if rising else 1 / 25 / 1e4
        return low + (1 - low) * height

    def beta1(self, step: int, total: int) -> float:
        return 0.95 - 0.1 * self._cycle(step, total)[1]

    def _cycle(self, step: int, total: int) -> tuple[bool, float]:
        """Whether the cycle still rises, and its height from 0 to 1."""
        # The peak need not fall on a step; if there is no step before it, the run starts there.
        peak = max(0.3 * total - 1, 0.0)
        if step <= peak and peak > 0:
            return True, (1 - math.cos(math.pi * step / peak)) / 2
        remaining = max(total - 1 - peak, 1.0)
        return False, (1 + math.cos(math.pi * (step - peak) / remaining)) / 2


@final
@dataclass(frozen=True)
class Exponential(AbstractSchedule):
    """A constant factor for each finished epoch, as in the founding paper; beta1 is 0.9.

    Args:
        decay: factor after each epoch, in (0, 1]; the default is the paper's.

    Raises:
        ValueError: if `decay` is out of its range.

    Reference:
        Li et al. (2019), arXiv:1911.00937.

    Example:
        >>> Exponential().factor(250, steps_per_epoch=100, epochs=3) == 0.96235**2
        True
    """

    kind = "exponential"

    decay: float = 0.96235

    def __post_init__(self) -> None:
        check_fields(self, unit_share, "decay", zero=False)

    def factor(self, step: int, *, steps_per_epoch: int, epochs: int) -> float:
        return self.decay ** (step // steps_per_epoch)

    def beta1(self, step: int, total: int) -> float:
        return 0.9


@final
@dataclass(frozen=True)
class MultiStep(AbstractSchedule):
    """A factor of `decay` after each of some shares of the run; beta1 is 0.9.

    Torch's `MultiStepLR`, its milestones given as shares of all steps.

    Args:
        drops: the shares, each strictly between 0 and 1.
        decay: the factor, in (0, 1].

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> schedule = MultiStep(drops=(0.5, 0.75))
        >>> [round(schedule.factor(s, steps_per_epoch=4, epochs=1), 3) for s in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """

    kind = "multi-step"

    drops: tuple[float, ...] = (0.5, 0.75)
    decay: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self, each, "drops", check=unit_share, zero=False, one=False)
        check_fields(self, unit_share, "decay", zero=False)

    def factor(self, step: int, *, steps_per_epoch: int, epochs: int) -> float:
        total = steps_per_epoch * epochs
        return self.decay ** sum(step >= round(drop * total) for drop in self.drops)

    def beta1(self, step: int, total: int) -> float:
        return 0.9


@final
@dataclass(frozen=True)
class Cosine(AbstractSchedule):
    r"""Half a cosine from 1 towards 0; beta1 is 0.9.

    :math:`\frac12 (1 + \cos(\pi\,\text{step}/\text{total}))`.

    Reference:
        Loshchilov and Hutter (2017), *SGDR*, eq. 5, one cycle; arXiv:1608.03983.

    Example:
        >>> [round(Cosine().factor(s, steps_per_epoch=4, epochs=1), 3) for s in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """

    kind = "cosine"

    def factor(self, step: int, *, steps_per_epoch: int, epochs: int) -> float:
        return (1 + math.cos(math.pi * step / (steps_per_epoch * epochs))) / 2

    def beta1(self, step: int, total: int) -> float:
        return 0.9


@final
@dataclass(frozen=True)
class Constant(AbstractSchedule):
    """The peak learning rate throughout, after the recipe's warm-up; beta1 is 0.9.

    Example:
        >>> Constant().factor(7, steps_per_epoch=4, epochs=2)
        1.0
    """

    kind = "constant"

    def factor(self, step: int, *, steps_per_epoch: int, epochs: int) -> float:
        return 1.0

    def beta1(self, step: int, total: int) -> float:
        return 0.9


def warm_up(step: int, steps: float) -> float:
    """The factor of the learning rate that rises by equal amounts to 1 over `steps` steps.

    Example:
        >>> from taut.training._schedules import warm_up
        >>> [warm_up(step, 4.0) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return 1.0 if step + 1 >= steps else (step + 1) / steps
