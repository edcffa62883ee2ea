"""Learning rate schedules as pure functions of the step, so that a resumed run needs no state."""

import math
from typing import Literal

Schedule = Literal["one-cycle", "exponential", "cosine"]

PAPER_DECAY = 0.96235


def learning_rate_factor(
    schedule: Schedule, step: int, *, steps_per_epoch: int, epochs: int
) -> float:
    """What the peak learning rate is multiplied by at one step.

    Args:
        schedule: "one-cycle", "exponential" or "cosine".
        step: optimiser steps taken so far, over all epochs.
        steps_per_epoch: optimiser steps in one epoch.
        epochs: epochs of the whole run.

    Returns:
        A factor in (0, 1].

    Raises:
        ValueError: if `schedule` is unknown.

    Example:
        >>> learning_rate_factor("exponential", 250, steps_per_epoch=100, epochs=3) == 0.96235**2
        True
    """
    total = steps_per_epoch * epochs
    match schedule:
        case "one-cycle":
            return one_cycle(step, total)
        case "exponential":
            return PAPER_DECAY ** (step // steps_per_epoch)
        case "cosine":
            return cosine(step, total)
        case _:
            raise ValueError(
                f"`schedule` must be one-cycle, exponential or cosine; got {schedule!r}."
            )


def cosine(step: int, total: int) -> float:
    r"""Half a cosine from 1 towards 0: :math:`\frac12 (1 + \cos(\pi\,\text{step}/\text{total}))`.

    Args:
        step: optimiser steps taken so far.
        total: optimiser steps of the whole run.

    Returns:
        A factor in (0, 1] for 0 <= step < total.

    Reference:
        Loshchilov and Hutter (2017), *SGDR*, eq. 5, one cycle; arXiv:1608.03983.

    Example:
        >>> [round(cosine(step, 4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    return (1 + math.cos(math.pi * step / total)) / 2


def one_cycle(step: int, total: int) -> float:
    """A cosine from 1/25 up to 1 over three tenths of the steps, and down to 4e-6 over the rest.

    Args:
        step: optimiser steps taken so far.
        total: optimiser steps of the whole run.

    Returns:
        The factor of torch's `OneCycleLR` with its defaults.

    Reference:
        Smith and Topin (2017), *Super-Convergence*, arXiv:1708.07120.

    Example:
        >>> [round(one_cycle(step, 11), 3) for step in (0, 2, 10)]
        [0.04, 0.96, 0.0]
    """
    rising, height = _cycle(step, total)
    low = 1 / 25 if rising else 1 / 25 / 1e4
    return low + (1 - low) * height


def first_moment_decay(schedule: Schedule, step: int, total: int) -> float:
    """Adam's beta1: 0.9, or for "one-cycle" 0.95 down to 0.85 at the peak rate and back.

    Args:
        schedule: that of the learning rate.
        step: optimiser steps taken so far.
        total: optimiser steps of the whole run.

    Returns:
        What torch's `OneCycleLR` sets with its defaults.

    Example:
        >>> [round(first_moment_decay("one-cycle", step, 11), 3) for step in (0, 2, 10)]
        [0.95, 0.854, 0.95]
    """
    return 0.95 - 0.1 * _cycle(step, total)[1] if schedule == "one-cycle" else 0.9


def _cycle(step: int, total: int) -> tuple[bool, float]:
    """Whether the cycle still rises, and its height from 0 to 1."""
    # The peak need not fall on a step; where there is no step before it, the run starts there.
    peak = max(0.3 * total - 1, 0.0)
    if step <= peak and peak > 0:
        return True, (1 - math.cos(math.pi * step / peak)) / 2
    remaining = max(total - 1 - peak, 1.0)
    return False, (1 + math.cos(math.pi * (step - peak) / remaining)) / 2
