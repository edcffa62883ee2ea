"""The privacy that noisy steps on random batches spend, by the accountant of Opacus."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import final

from taut._arguments import check_fields, positive, unit_share, whole

_ORDERS = [*(1 + n / 10 for n in range(1, 100)), *range(11, 64), *(2**n for n in range(6, 13))]
"""Orders of Renyi divergences that are tried; each alone gives a valid epsilon."""
_LARGEST = 10**6
"""Epsilon up to which noise is searched for."""


@final
@dataclass(frozen=True)
class SampledGaussian:
    """Steps of Gaussian noise on sums over random batches, and the privacy that they spend.

    Neighbours are data sets of which one has one example more (add or remove). In each step every
    example is in the batch with the same probability, independently of all others.

    Guarantee: by the Renyi divergences of the sampled Gaussian mechanism, in real arithmetic and
        for exact Gaussian noise; not the smallest epsilon that can be proven.

    Args:
        noise_multiplier: standard deviation of the noise over the sensitivity of the sum; > 0.
        sampling_rate: probability of an example to be in a batch; in (0, 1].
        steps: number of steps.

    Raises:
        ValueError: if a setting is out of range.

    Reference:
        Mironov, Talwar, Zhang (2019), *Renyi Differential Privacy of the Sampled Gaussian
        Mechanism*, arXiv:1908.10530, as `opacus.accountants.RDPAccountant` computes it.

    Example:
        >>> mechanism = SampledGaussian.within(3.0, 1e-5, sampling_rate=0.02, steps=500)
        >>> 2.9 < mechanism.epsilon(1e-5) <= 3.0
        True
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        check_fields(self, positive, "noise_multiplier")
        check_fields(self, unit_share, "sampling_rate", zero=False)
        check_fields(self, whole, "steps")

    @classmethod
    def within(
        cls, epsilon: float, delta: float, *, sampling_rate: float, steps: int
    ) -> "SampledGaussian":
        """The least noise, to one in a thousand of epsilon, that stays within a budget.

        Args:
            epsilon: of the budget; > 0, and at most a million.
            delta: of the budget; in (0, 1), and well below one over the number of examples.
            sampling_rate: as of the mechanism.
            steps: as of the mechanism.

        Raises:
            ValueError: if an argument is out of range, or no noise is enough.
            ImportError: without Opacus, of the extra `private`.
        """
        epsilon, delta = positive("epsilon", epsilon), _delta(delta)
        if epsilon > _LARGEST:
            raise ValueError(
                f"`epsilon` must be at most {_LARGEST}: more is no privacy; got {epsilon:g}."
            )
        sampling_rate = unit_share("sampling_rate", sampling_rate, zero=False)
        utils = _opacus("opacus.accountants.utils")
        count = whole("steps", steps)
        try:
            with _quiet():
                noise = utils.get_noise_multiplier(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=sampling_rate,
                    steps=count, epsilon_tolerance=epsilon / 1000, alphas=_ORDERS,
                )  # fmt: skip
        except ValueError:  # of Opacus: the budget is too low
            raise ValueError(
                f"`epsilon` must be larger: no noise stays within {epsilon} at delta={delta}."
            ) from None
        return cls(noise, sampling_rate, steps)

    def epsilon(self, delta: float, *, steps: int | None = None) -> float:
        """The epsilon that is spent, for a delta in (0, 1).

        Args:
            delta: probability with which the bound may fail.
            steps: the number of steps so far; all of them by default.

        Raises:
            ValueError: if an argument is out of range.
            ImportError: without Opacus, of the extra `private`.
        """
        delta = _delta(delta)
        accountant = _opacus("opacus.accountants").RDPAccountant()
        count = self.steps if steps is None else whole("steps", steps, least=0)
        accountant.history = [(self.noise_multiplier, self.sampling_rate, count)] * (count > 0)
        with _quiet():
            return max(0.0, accountant.get_epsilon(delta, alphas=_ORDERS))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the hint that more orders could lower epsilon."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the")
        yield


def _opacus(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "privacy accounting needs `opacus`: install the extra `private` "
            "(pip install 'taut[private]')."
        ) from error


def _delta(delta: float) -> float:
    return unit_share("delta", delta, zero=False, one=False)
