"""Options of an estimate, and of a test for drift."""

import math
from dataclasses import dataclass
from typing import final

from taut._arguments import check_fields, positive, unit_share, whole


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of an estimate, beside the samples and the critic.

    Args:
        steps: of Adam at most; 0 trains nothing.
        batch_size: points of either sample a step.
        lr: peak learning rate; it falls to 0 along half a cosine.
        checks: how often the lower bound is measured on validation points, the upper one improved.
        tolerance: stop early once the two are within this share of the upper one.
        held_out: share of the points that only measures. With 0 all points do both: then the
            bounds are of the samples themselves, and nothing is said of where they came from.
        confidence: of the interval for the distributions.
        domain: least and largest number that a coordinate of a point can have, such as (0.0, 1.0)
            for images; with it the interval is guaranteed for any number of points, without it
            only in the limit of many.
        samples: points to draw from a sampler, and at most from a loader or a data set of torch.
        max_memory: bytes that exact transport may take; with 0 a plan is made without POT.
        seed: of initial weights, of the order and of samplers that draw from torch's generator.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> Settings(steps=200).confidence
        0.95
    """

    steps: int = 1000
    batch_size: int = 256
    lr: float = 1e-2
    checks: int = 10
    tolerance: float = 0.005
    held_out: float = 1 / 3
    confidence: float = 0.95
    domain: tuple[float, float] | None = None
    samples: int = 2000
    max_memory: int = 1 << 30
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 0, "batch_size": 1, "checks": 1, "samples": 4, "max_memory": 0, "seed": 0}
        for name, low in least.items():
            check_fields(self, whole, name, least=low)
        check_fields(self, unit_share, "held_out", "tolerance", one=False)
        check_fields(self, unit_share, "confidence", zero=False, one=False)
        check_fields(self, positive, "lr")
        if self.domain is not None and not -math.inf < self.domain[0] < self.domain[1] < math.inf:
            raise ValueError(f"`domain` must be two rising numbers; got {self.domain}.")


@final
@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """Options of a test for drift.

    Args:
        steps: of Adam at most; 0 trains no network, critics in closed form remain.
        batch_size: points of either sample a step.
        lr: peak learning rate; it falls to 0 along half a cosine.
        held_out: share of the points that only tests.
        permutations: random relabellings of the held-out points.
        samples: points to draw from a sampler, and at most from a loader or a data set of torch.
        seed: of initial weights, of the cut and of the relabellings; choose it before the data.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> DriftSettings(steps=50).held_out
        0.5
    """

    steps: int = 100
    batch_size: int = 64
    lr: float = 1e-2
    held_out: float = 0.5
    permutations: int = 999
    samples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.training
        if self.held_out == 0:
            raise ValueError("`held_out` must be above 0: points that train cannot test.")
        if self.permutations < 1:
            raise ValueError(f"`permutations` must be at least 1; got {self.permutations}.")

    @property
    def training(self) -> Settings:
        """The options as those of an estimate."""
        return Settings(
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            held_out=self.held_out,
            samples=self.samples,
            seed=self.seed,
        )
